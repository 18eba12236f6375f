"""What a run says of itself: one record per step, phase, event and round.

The trainer writes these carriers and the report reads the same ones back, so no reader has to guess
a shape. `metrics.jsonl` holds one line per step, phase and event; `summary.json` holds the rounds.

>>> step = StepRecord(round=1, phase="attack", step=0, steps=8, measures={"loss": 0.5})
>>> step.as_row()["loss"], record_of(step.as_row()) == step
(0.5, True)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from sectow_fast.types import Attack, Case, Event, Rate, UserError

Measure = Literal["asr", "orr", "accuracy"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
Rates = Mapping[str, Rate]  # by suite, and "mean"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One training step. seconds: by part of the step; reward: means of the total and of each part;
    measures: every other number (loss, lr, tokens, dead_groups, refusal_rate, ...); engine: how
    often the rollout engine was restarted, and the like."""

    round: int
    phase: str
    step: int
    steps: int  # how many the phase has
    seconds: Mapping[str, float] = field(default_factory=dict)
    reward: Mapping[str, float] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    engine: Mapping[str, int] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """A flat JSON object; empty tables are left out."""
        head = {"round": self.round, "phase": self.phase, "step": self.step, "steps": self.steps}
        tables = {"reward": self.reward, "seconds": self.seconds, "engine": self.engine}
        return head | dict(self.measures) | {name: dict(t) for name, t in tables.items() if t}


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """A phase that is not made of steps (harvest, evaluate) has ended. seconds: all of it;
    measures: every other number."""

    round: int
    phase: str
    seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        head = {"round": self.round, "phase": self.phase, "seconds": {"all": self.seconds}}
        return head | dict(self.measures)


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
class RunSummary:
    """`summary.json` of a run, the finished rounds so far. versions: package -> version;
    wall_seconds: over all resumptions, the one number in which two same runs differ."""

    preset: str
    seed: int
    versions: Mapping[str, str]
    device: str
    wall_seconds: float
    ablate: Sequence[str]
    attacker: str
    defender: str
    rounds: Sequence[RoundRecord]

    def as_dict(self) -> dict[str, Any]:
        """The JSON object, schema 1."""
        rounds = [record.as_dict() for record in self.rounds]
        return {"schema": 1} | vars(self) | {"ablate": list(self.ablate), "rounds": rounds}

    @classmethod
    def from_dict(cls, row: Any, *, where: str = "summary.json") -> RunSummary:
        """The inverse of `as_dict`. UserError names `where` and the field that is amiss."""
        if not isinstance(row, dict) or row.get("schema") != 1:
            schema = row.get("schema") if isinstance(row, dict) else type(row).__name__
            raise UserError(f"{where}: field schema: expected 1, found {schema!r}")
        kinds = {"seed": int, "versions": dict, "wall_seconds": int | float, "ablate": list}
        for name in (one.name for one in fields(cls) if one.name != "rounds"):
            if not isinstance(row.get(name), kinds.get(name, str)):
                raise UserError(
                    f"{where}: field {name}: found {row.get(name)!r}, expected what a run writes"
                )
        if not isinstance(row.get("rounds"), list) or not row["rounds"]:
            raise UserError(f"{where}: field rounds: expected a list, round 0 first")
        rounds = [RoundRecord.from_dict(one, where=where) for one in row["rounds"]]
        given = {one.name: row[one.name] for one in fields(cls)}
        return cls(**given | {"rounds": rounds})


def attack_as_dict(attack: Attack) -> dict[str, Any]:
    """A kept attack's line in `pool.jsonl`; style, goal and image of its case stand on top too."""
    case = attack.case
    more = {"style": case.style, "goal": case.goal, "image": case.image}
    row = asdict(attack) | more
    if not case.parts:
        del row["case"]["parts"]  # an attack shows one picture at most
    return row


def attack_from_dict(row: Mapping[str, Any], *, where: str = "pool.jsonl") -> Attack:
    """The inverse of `attack_as_dict`. UserError names `where` for a line that is no attack."""
    try:
        given = {one.name: row[one.name] for one in fields(Attack)}
        parts = tuple(tuple(part) for part in row["case"].get("parts", ()))
        return Attack(**given | {"case": Case(**row["case"] | {"parts": parts})})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: found no attack ({type(error).__name__}: {error}), expected what a run wrote"
        ) from None


NO_RATE = Rate(value=math.nan, n=0, low=math.nan, high=math.nan)


def event_dict(event: Event) -> dict[str, Any]:
    """An event as JSON; `Event(**event_dict(event))` is its inverse."""
    return vars(event) | {"values": dict(event.values)}


def event_row(event: Event) -> dict[str, Any]:
    """An event's line in `metrics.jsonl`."""
    return {"event": event_dict(event)}


def record_of(row: Mapping[str, Any], *, where: str = "metrics.jsonl") -> Record:
    """The record of one line of `metrics.jsonl`. A number that was not finite comes back as NaN.

    UserError names `where` for a line that is none of them.
    """
    try:
        if "event" in row:
            return Event(**row["event"])
        if "step" not in row:
            seconds = row["seconds"]["all"]
            rest = {k: v for k, v in row.items() if k not in ("round", "phase", "seconds")}
            return PhaseRecord(
                round=row["round"], phase=row["phase"], seconds=seconds, measures=_numbers(rest)
            )
        named = {name: row[name] for name in ("round", "phase", "step", "steps")}
        tables = {name: _numbers(row.get(name, {})) for name in ("seconds", "reward")}
        rest = {k: v for k, v in row.items() if k not in named and k not in (*tables, "engine")}
        return StepRecord(
            **named, **tables, measures=_numbers(rest), engine=dict(row.get("engine", {}))
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: found a line that this version did not write"
            f" ({type(error).__name__}: {error}), expected a step, a phase or an event"
        ) from None


Record = StepRecord | PhaseRecord | Event


def evaluation_rows(path: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the summary of an evaluation of models, which was read from `path`.

    UserError where an earlier version wrote them.
    """
    rows = summary.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path}: found no field rows with a list of objects, expected what an evaluation wrote"
            " there; mend the file, or use another --out"
        )
    for row in rows:
        if "folder" not in row:
            raise UserError(
                f"{path}: row {row.get('name')}: found no field folder, expected results of this"
                " version of sectow_fast; evaluate anew with another --out"
            )
    return rows


def _numbers(table: Mapping[str, float | None]) -> dict[str, float]:
    odd = [n for n, value in table.items() if not isinstance(value, int | float | None)]
    if odd:
        raise ValueError(f"field {odd[0]}: found {table[odd[0]]!r}, expected a number")
    return {name: math.nan if value is None else value for name, value in table.items()}


def _rate_dicts(rates: Rates) -> dict[str, dict[str, float | int]]:
    return {name: rate.as_dict() for name, rate in rates.items()}


def _rates(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Rate]:
    return {name: Rate(**rate) for name, rate in table.items()}
