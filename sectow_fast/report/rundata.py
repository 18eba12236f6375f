"""A run folder read back into the carriers that wrote it, and what the views of it share.

The figures, the page, the console and the tables take rates, names and texts from here. A rate that
a round does not have is `rounds.NO_RATE`; its numbers are NaN and are shown as a dash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sectow_fast.records import PhaseRecord, StepRecord, attack_from_dict, record_of
from sectow_fast.report.metrics import read
from sectow_fast.rounds import (
    NO_RATE,
    HarvestRecord,
    LeakRecord,
    Measure,
    RoundRecord,
    RunSummary,
    StyleCount,
)
from sectow_fast.types import Attack, Event, Rate, UserError

OPEN_SHARE = 0.05  # our choice: a style is "open" while it wins at least 1 in 20 tries
PHASE_NAMES = {
    "coldstart-caption": "cold start: pictures",
    "coldstart-defender": "cold start: defender",
    "coldstart-attacker": "cold start: attacker",
    "coldstart-refusals": "cold start: refusals",
    "attack": "attacker GRPO",
    "harvest": "harvest",
    "defend": "defender GRPO",
    "evaluate": "measures of the round",
    "league": "league",
}
ATTACKER_NAMES = {  # whose requests, tried on which defender
    "self-instruct": "self-instruct, on round 0",
    "self-instruct-now": "self-instruct, on its opponent",
    "trained": "trained, on its opponent",
    "trained-vs-round-0": "trained, on round 0",
}


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Everything of a run that people are shown. torn: unfinished lines of the log left out."""

    folder: Path
    summary: RunSummary
    steps: Sequence[StepRecord]
    phases: Sequence[PhaseRecord]
    events: Sequence[Event]
    pool: Sequence[Attack]
    config: str
    torn: int

    @property
    def rounds(self) -> Sequence[RoundRecord]:
        return self.summary.rounds


def read_summary(path: Path) -> RunSummary:
    """The summary of a run. UserError names the file and the field that is amiss."""
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object ({error})") from None
    return RunSummary.from_dict(found, where=str(path))


def load(run_dir: str | Path) -> RunData:
    """Read the folder of a run. UserError names the file, and the line or field, that is amiss."""
    folder = Path(run_dir)
    summary = read_summary(folder / "summary.json")
    log, pool = read(folder / "metrics.jsonl"), read(folder / "pool.jsonl")
    records = [record_of(row, where=log.where) for row in log]
    return RunData(
        folder=folder,
        summary=summary,
        steps=[record for record in records if isinstance(record, StepRecord)],
        phases=[record for record in records if isinstance(record, PhaseRecord)],
        events=[record for record in records if isinstance(record, Event)],
        pool=[attack_from_dict(row, where=pool.where) for row in pool],
        config=_text(folder / "config.toml"),
        torn=log.torn,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found; expected the folder of a finished run "
            "(finish it with python -m sectow_fast.train --resume)"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


# ---- what the rounds say


def sentence(words: str) -> str:
    """Words as they begin a line."""
    return words[:1].upper() + words[1:]


def suite_names(rounds: Iterable[RoundRecord], measure: Measure) -> list[str]:
    """Names of the suites of a measure in their order of appearance, without the mean."""
    names = [name for record in rounds for name in record.rates[measure] if name != "mean"]
    return list(dict.fromkeys(names))


def figstep(record: RoundRecord) -> Rate:
    """The attack success rate of the first suite with "figstep" in its name."""
    found = [rate for name, rate in record.rates["asr"].items() if "figstep" in name.lower()]
    return found[0] if found else NO_RATE


@dataclass(frozen=True, kw_only=True)
class Attackers:
    """Success of the trained attacker and of self-instruct, both on the round-0 defender."""

    trained: Rate
    self_instruct: Rate

    @property
    def ratio(self) -> float:
        """How many times as often the trained one succeeds; NaN where self-instruct never does."""
        base = self.self_instruct.value
        return self.trained.value / base if base > 0 else math.nan


def attackers(rounds: Iterable[RoundRecord]) -> Attackers | None:
    """From the first round with a trained attacker; it was trained on just that defender."""
    for record in rounds:
        found = record.attacker_success
        if "trained-vs-round-0" in found:
            return Attackers(
                trained=found["trained-vs-round-0"], self_instruct=found["self-instruct"]
            )
    return None


def current_success(record: RoundRecord) -> Rate:
    """Success of the run's attacker on the defender of that time: what was trained, else
    self-instruct. NO_RATE in a round without an attack."""
    found = record.attacker_success
    return found.get("trained", found.get("self-instruct-now", NO_RATE))


def leaks(rounds: Iterable[RoundRecord]) -> list[tuple[RoundRecord, LeakRecord]]:
    """The rounds whose leak was computed, with it."""
    return [(record, record.leak) for record in rounds if record.leak is not None]


def harvests(rounds: Iterable[RoundRecord]) -> list[tuple[int, HarvestRecord]]:
    """(round, harvest) of the rounds that gathered attacks."""
    return [(record.round, record.harvest) for record in rounds if record.harvest is not None]


def drop_reasons(rounds: Iterable[RoundRecord]) -> list[str]:
    """Why harvests dropped attacks, most frequent reason first."""
    totals: dict[str, int] = {}
    for _, harvest in harvests(rounds):
        for reason, count in harvest.dropped.items():
            totals[reason] = totals.get(reason, 0) + count
    return sorted(totals, key=lambda name: (-totals[name], name))


@dataclass(frozen=True, kw_only=True)
class StyleRow:
    """What became of an attack style. cells: by harvest, `tried=0` where it was not tried.

    opened: it won at least OPEN_SHARE of its tries in some round. closed: the first later round in
    which it was tried and never open again. left: the round it was last tried in, where later
    harvests did without it.
    """

    style: str
    cells: Sequence[StyleCount]
    opened: bool
    closed: int | None
    left: int | None

    @property
    def tried(self) -> int:
        return sum(cell.tried for cell in self.cells)

    @property
    def won(self) -> int:
        return sum(cell.won for cell in self.cells)


def share(cell: StyleCount) -> float:
    """The share won; NaN where the style was not tried."""
    return cell.won / cell.tried if cell.tried else math.nan


def style_rows(rounds: Iterable[RoundRecord]) -> list[StyleRow]:
    """One row per style, most tried first."""
    found = harvests(rounds)
    names = dict.fromkeys(name for _, harvest in found for name in harvest.styles)
    rows = []
    for name in names:
        cells = [harvest.styles.get(name, StyleCount(tried=0, won=0)) for _, harvest in found]
        opened, closed, last = False, None, None
        for (round, _), cell in zip(found, cells, strict=True):
            if share(cell) >= OPEN_SHARE:
                opened, closed = True, None
            elif cell.tried and opened and closed is None:
                closed = round
            last = round if cell.tried else last
        left = last if last != found[-1][0] else None
        rows.append(StyleRow(style=name, cells=cells, opened=opened, closed=closed, left=left))
    return sorted(rows, key=lambda row: (-row.tried, row.style))


def phase_seconds(run: RunData) -> dict[str, dict[str, float]]:
    """Seconds by phase and by part of a step ("rollout", "train", ..., or "all")."""
    found: dict[str, dict[str, float]] = {name: {} for name in PHASE_NAMES}
    rows = [(step.phase, step.seconds) for step in run.steps]
    rows += [(phase.phase, {"all": phase.seconds}) for phase in run.phases]
    for phase, parts in rows:
        cell = found.setdefault(phase, {})
        for part, seconds in parts.items():
            cell[part] = cell.get(part, 0.0) + seconds
    return {phase: parts for phase, parts in found.items() if parts}


# ---- numbers as people read them


def percent(value: float, digits: int = 1, *, unit: str = " %") -> str:
    """A share as text, 0.0123 -> "1.2 %"; NaN -> an en dash."""
    return f"{100 * value:.{digits}f}{unit}" if math.isfinite(value) else "–"


def bounds(rate: Rate, digits: int = 1) -> str:
    """The 95 % interval of a rate in percent, "0.4–3.1"; empty where it has none."""
    if not math.isfinite(rate.low):
        return ""
    return f"{100 * rate.low:.{digits}f}–{100 * rate.high:.{digits}f}"


def clock(seconds: float) -> str:
    """A length of time as m:ss, or h:mm:ss from an hour on; NaN -> "–"."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
