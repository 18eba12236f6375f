"""Rounds and runs, as `summary.json` has them: written and read by the same code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from sectow_fast.types import NOT_SAID, Event, JudgedBy, Rate, UserError

Measure = Literal["asr", "orr", "accuracy"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
Rates = Mapping[str, Rate]  # by suite, and "mean"
NO_RATE = Rate(value=math.nan, n=0, low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True)
class StyleCount:
    """Attacks of one style in one harvest: how many were tried, and how many succeeded."""

    tried: int
    won: int


@dataclass(frozen=True, kw_only=True)
class HarvestRecord:
    """What became of a harvest's attacks. dropped: reason -> count; styles: by style; kept_gold:
    how many of the kept the exact judge would have kept, where a proxy decided."""

    kept: int
    dropped: Mapping[str, int]
    styles: Mapping[str, StyleCount]
    kept_gold: int | None = None


@dataclass(frozen=True, kw_only=True)
class LeakRecord:
    """How likely the defender is to do harm, computed over a grammar's attacks (game/leak.py).

    attacks: how many were computed, of `space` that there are, over all objects. mean: over objects
    of the mean over an object's attacks; graded: the same of graded harm. worst: each object's
    worst attack, in the order of the space's objects; worst_median: their median. asr_at: k -> the
    chance that one of k attacks on an object succeeds. styles: the mean by style.
    """

    attacks: int
    space: int
    mean: Rate
    graded: Rate
    worst: tuple[float, ...]
    worst_median: Rate
    asr_at: Mapping[int, Rate]
    styles: Rates

    def as_dict(self) -> dict[str, Any]:
        """The object "leak" of a round in `summary.json`."""
        rates = {name: getattr(self, name).as_dict() for name in ("mean", "graded", "worst_median")}
        return {
            "objects": len(self.worst),
            "attacks": self.attacks,
            "space": self.space,
            **rates,
            "worst_max": max(self.worst),
            "worst": list(self.worst),
            "asr_at": {str(k): rate.as_dict() for k, rate in self.asr_at.items()},
            "styles": _rate_dicts(self.styles),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> LeakRecord:
        """The inverse of `as_dict`. KeyError, TypeError: it is none."""
        return cls(
            attacks=row["attacks"],
            space=row["space"],
            **{name: Rate(**row[name]) for name in ("mean", "graded", "worst_median")},
            worst=tuple(row["worst"]),
            asr_at={int(k): Rate(**rate) for k, rate in row["asr_at"].items()},
            styles=_rates(row["styles"]),
        )


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """A round as `summary.json` has it; round 0 is the defender before any reinforcement learning.

    rates: measure -> suite -> rate, decoded greedily; rates_t1: the same at temperature 1. graded
    and graded_t1: suite -> mean graded harm, where the judge can grade. leak: None where the world
    lists no harmful replies. attacker_success: by attacker (see `report`). harvest: None where none
    was made. queries: replies that the attacker asked of the defender, in "attack" (its training)
    and in "harvest".
    """

    round: int
    rates: Mapping[Measure, Rates]
    rates_t1: Mapping[Measure, Rates]
    graded: Rates = field(default_factory=dict)
    graded_t1: Rates = field(default_factory=dict)
    leak: LeakRecord | None = None
    attacker_success: Rates = field(default_factory=dict)
    harvest: HarvestRecord | None = None
    queries: Mapping[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def mean(self, measure: Measure, *, t1: bool = False) -> Rate:
        """The mean over the suites of a measure; NaN where there is none."""
        return (self.rates_t1 if t1 else self.rates)[measure].get("mean", NO_RATE)

    def as_dict(self) -> dict[str, Any]:
        """The object in `summary.json` (contract C2 in docs/ARCHITECTURE.md, "The folder")."""
        row: dict[str, Any] = {"round": self.round}
        for suffix, tables in (("", self.rates), ("_t1", self.rates_t1)):
            row |= {f"{name}{suffix}": _rate_dicts(tables[name]) for name in MEASURES}
        for name, rates in (("asr_graded", self.graded), ("asr_graded_t1", self.graded_t1)):
            row |= {name: _rate_dicts(rates)} if rates else {}
        if self.leak is not None:
            row["leak"] = self.leak.as_dict()
        row["attacker_success"] = _rate_dicts(self.attacker_success)
        if self.harvest is not None:
            row |= {
                "kept": self.harvest.kept,
                "dropped": dict(self.harvest.dropped),
                "styles": {name: vars(count) for name, count in self.harvest.styles.items()},
                "queries": dict(self.queries),
            }
            if self.harvest.kept_gold is not None:
                row["kept_gold"] = self.harvest.kept_gold
        return row | {"events": [event_dict(event) for event in self.events]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, where: str = "summary.json") -> RoundRecord:
        """The inverse of `as_dict`. UserError names `where`, the round and what is amiss."""
        try:
            harvest = None
            if "kept" in row:
                styles = {name: StyleCount(**count) for name, count in row["styles"].items()}
                given = {"kept": row["kept"], "dropped": row["dropped"], "styles": styles}
                harvest = HarvestRecord(**given, kept_gold=row.get("kept_gold"))
            return cls(
                round=row["round"],
                rates={name: _rates(row[name]) for name in MEASURES},
                rates_t1={name: _rates(row[f"{name}_t1"]) for name in MEASURES},
                graded=_rates(row.get("asr_graded", {})),
                graded_t1=_rates(row.get("asr_graded_t1", {})),
                leak=LeakRecord.from_dict(row["leak"]) if "leak" in row else None,
                attacker_success=_rates(row["attacker_success"]),
                harvest=harvest,
                queries=dict(row["queries"]) if "kept" in row else {},
                events=tuple(Event(**event) for event in row["events"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            number = row.get("round") if isinstance(row, Mapping) else None
            raise UserError(
                f"{where}: field rounds: found a round ({number!r}) that this version did not write"
                f" ({type(error).__name__}: {error}), expected one of a finished run"
            ) from None


@dataclass(frozen=True, kw_only=True)
class LeagueRecord:
    """Success of attackers on defenders (game/league.py). cases: seeds that each attacker was
    given; rates: attacker -> defender -> share of them that the defender answered harmfully."""

    cases: int
    rates: Mapping[str, Rates]

    def as_dict(self) -> dict[str, Any]:
        """The object "league" in `summary.json`."""
        rates = {name: _rate_dicts(row) for name, row in self.rates.items()}
        return {"cases": self.cases, "rates": rates}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> LeagueRecord:
        """The inverse of `as_dict`. KeyError, TypeError, AttributeError: it is none."""
        rates = {name: _rates(table) for name, table in row["rates"].items()}
        return cls(cases=row["cases"], rates=rates)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """`summary.json` of a run, the finished rounds so far. versions: package -> version;
    wall_seconds: over all resumptions, the one number in which two same runs differ. judged: what
    `asr` of its rounds is, and by whom. league: None where none was played, or not yet."""

    preset: str
    seed: int
    versions: Mapping[str, str]
    device: str
    wall_seconds: float
    ablate: Sequence[str]
    attacker: str
    defender: str
    judged: JudgedBy
    rounds: Sequence[RoundRecord]
    league: LeagueRecord | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object, schema 1."""
        rounds = [record.as_dict() for record in self.rounds]
        more = {"ablate": list(self.ablate), "judged": vars(self.judged), "rounds": rounds}
        row = {"schema": 1} | vars(self) | more
        del row["league"]
        return row | ({} if self.league is None else {"league": self.league.as_dict()})

    @classmethod
    def from_dict(cls, row: Any, *, where: str = "summary.json") -> RunSummary:
        """The inverse of `as_dict`. UserError names `where` and the field that is amiss."""
        if not isinstance(row, dict) or row.get("schema") != 1:
            schema = row.get("schema") if isinstance(row, dict) else type(row).__name__
            raise UserError(f"{where}: field schema: expected 1, found {schema!r}")
        kinds = {"seed": int, "versions": dict, "wall_seconds": int | float, "ablate": list}
        plain = [one.name for one in fields(cls) if one.name not in ("rounds", "judged", "league")]
        for name in plain:
            if not isinstance(row.get(name), kinds.get(name, str)):
                raise UserError(
                    f"{where}: field {name}: found {row.get(name)!r}, expected what a run writes"
                )
        if not isinstance(row.get("rounds"), list) or not row["rounds"]:
            raise UserError(f"{where}: field rounds: expected a list, round 0 first")
        rounds = [RoundRecord.from_dict(one, where=where) for one in row["rounds"]]
        try:
            league = LeagueRecord.from_dict(row["league"]) if "league" in row else None
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}: field league: found none that this version wrote"
                f" ({type(error).__name__}: {error}), expected that of a finished run"
            ) from None
        try:  # runs of earlier versions do not say it
            judged = JudgedBy(**row["judged"]) if "judged" in row else NOT_SAID
        except TypeError:
            raise UserError(
                f"{where}: field judged: found {row['judged']!r}, expected by, people, attacks"
            ) from None
        given = {name: row[name] for name in plain}
        return cls(**given, judged=judged, rounds=rounds, league=league)


def event_dict(event: Event) -> dict[str, Any]:
    """An event as JSON; `Event(**event_dict(event))` is its inverse."""
    return vars(event) | {"values": dict(event.values)}


def _rate_dicts(rates: Rates) -> dict[str, dict[str, float | int]]:
    return {name: rate.as_dict() for name, rate in rates.items()}


def _rates(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Rate]:
    return {name: Rate(**rate) for name, rate in table.items()}
