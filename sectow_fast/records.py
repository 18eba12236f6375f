"""Lines that a run writes: steps, phases and events in `metrics.jsonl`, attacks in `pool.jsonl`.

The trainer writes these carriers and the report reads the same ones back, so no reader has to guess
a shape. The rounds of `summary.json` are in rounds.py.

>>> step = StepRecord(round=1, phase="attack", step=0, steps=8, measures={"loss": 0.5})
>>> step.as_row()["loss"], record_of(step.as_row()) == step
(0.5, True)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sectow_fast.rounds import event_dict
from sectow_fast.types import Attack, Case, Event, UserError


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
