"""A run folder read once and put into plain shapes that the figures, report and tables share.

A *rate* is `{"value", "low", "high", "n", "unknown"}` with shares in 0..1; a missing or non-finite
number is NaN here, and is printed as a dash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sectow_fast.report.metrics import read
from sectow_fast.types import UserError

NAN = math.nan
OPEN_SHARE = 0.05  # our choice: a style is "open" while it wins at least 1 in 20 tries
PHASE_NAMES = {
    "coldstart-caption": "cold start: pictures",
    "coldstart-defender": "cold start: defender",
    "coldstart-attacker": "cold start: attacker",
    "attack": "attacker GRPO",
    "harvest": "filter",
    "defend": "defender GRPO",
    "evaluate": "evaluation",
}
ATTACKER_NAMES = {  # whose requests, tried on which defender
    "self-instruct": "self-instruct, on round 0",
    "trained": "trained, on its opponent",
    "trained-vs-round-0": "trained, on round 0",
}


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Everything of a run that people are shown."""

    folder: Path
    summary: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]] = ()  # metrics rows that are not events
    events: Sequence[Mapping[str, Any]] = ()
    pool: Sequence[Mapping[str, Any]] = ()
    config: str = ""
    torn: int = 0
    rounds: Sequence[Mapping[str, Any]] = field(default=())


def number(value: Any) -> float:
    """A float, NaN for what is missing or not a number."""
    return float(value) if isinstance(value, int | float) else NAN


def rate(value: Any) -> dict[str, float]:
    """A rate from its dict in summary.json; a bare number has no interval."""
    if isinstance(value, Mapping):
        found = {key: number(value.get(key)) for key in ("value", "low", "high", "n")}
        return found | {"unknown": number(value.get("unknown", 0))}
    return {"value": number(value), "low": NAN, "high": NAN, "n": NAN, "unknown": 0.0}


def rates(block: Any) -> dict[str, dict[str, float]]:
    """Rates by suite, "mean" last. One bare rate is its own mean; a missing mean is computed.

    The computed mean is the unweighted mean of the suites and has no interval.
    """
    if block is None:
        return {}
    if not isinstance(block, Mapping) or "value" in block:
        return {"mean": rate(block)}
    found = {name: rate(item) for name, item in block.items() if name != "mean"}
    known = [item["value"] for item in found.values() if math.isfinite(item["value"])]
    if "mean" in block:
        return found | {"mean": rate(block["mean"])}
    return found | {"mean": rate(sum(known) / len(known))} if known else found


def mean(round_: Mapping[str, Any], key: str) -> dict[str, float]:
    """The mean rate of `key` ("asr", "orr", "accuracy") in a round; NaN where there is none."""
    return rates(round_.get(key)).get("mean", rate(None))


def suite_names(rounds: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    """Names of the suites of `key` in their order of appearance, without the mean."""
    names = [name for item in rounds for name in rates(item.get(key)) if name != "mean"]
    return list(dict.fromkeys(names))


def figstep(round_: Mapping[str, Any]) -> dict[str, float]:
    """The rate of the FigStep-shaped suite: the first ASR suite with "figstep" in its name."""
    for name, item in rates(round_.get("asr")).items():
        if "figstep" in name.lower():
            return item
    return rate(None)


def attacker_ratio(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How many times as often the trained attacker succeeds as self-instruct, on one defender.

    Both against the round-0 defender: "trained-vs-round-0" of the first round that has it (round
    1 was trained on just that defender; without the key, that round's "trained"), over the first
    "self-instruct" there is. None where either is missing or self-instruct never succeeds.
    """
    trained, base, when = rate(None), rate(None), None
    for item in rounds:
        success = item.get("attacker_success") or {}
        if math.isnan(base["value"]) and "self-instruct" in success:
            base = rate(success["self-instruct"])
        if when is None and int(item.get("round", 0)) > 0:
            key = "trained-vs-round-0" if "trained-vs-round-0" in success else "trained"
            if math.isfinite(rate(success.get(key))["value"]):
                trained, when = rate(success[key]), item["round"]
    if when is None or not base["value"] > 0:
        return None
    ratio = trained["value"] / base["value"]
    return {"ratio": ratio, "trained": trained, "self": base, "round": when}


def percent(value: float, digits: int = 1) -> str:
    """A share as text, e.g. 0.0123 -> "1.2 %"; NaN -> an en dash."""
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "–"


def interval(item: Mapping[str, float], digits: int = 1) -> str:
    """The 95 % interval of a rate, e.g. "0.4–3.1"; empty where it has none."""
    if not (math.isfinite(item["low"]) and math.isfinite(item["high"])):
        return ""
    return f"{100 * item['low']:.{digits}f}–{100 * item['high']:.{digits}f}"


def clock(seconds: float) -> str:
    """A length of time as m:ss, or h:mm:ss from an hour on; NaN -> "–"."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def style_rows(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a style: share won by round (NaN where not tried), and the round it closed in.

    A style is open in a round when it wins at least OPEN_SHARE of its tries, and closed from the
    first later round on in which it is tried and never open again. `left`: the round an open style
    was last tried in, where later harvests did without it. Most tried first.
    """
    styled = [item for item in rounds if item.get("styles")]
    names: dict[str, float] = {}
    for item in styled:
        for name, cell in item["styles"].items():
            names[name] = names.get(name, 0) + number(cell.get("tried", 0))
    rows = []
    for name in sorted(names, key=lambda key: (-names[key], key)):
        cells, open_seen, closed = [], False, None
        for item in styled:
            cell = item["styles"].get(name, {})
            tried, won = int(cell.get("tried") or 0), int(cell.get("won") or 0)
            share = won / tried if tried else NAN
            if share >= OPEN_SHARE:
                open_seen, closed = True, None
            elif tried and open_seen and closed is None:
                closed = item["round"]
            cells.append({"tried": tried, "won": won, "share": share})
        last = [r["round"] for r, cell in zip(styled, cells, strict=True) if cell["tried"]][-1:]
        left = last[0] if last and last[0] != styled[-1]["round"] else None
        rows.append({"style": name, "cells": cells, "closed": closed, "opened": open_seen})
        rows[-1]["left"] = left
        rows[-1] |= {key: sum(cell[key] for cell in cells) for key in ("tried", "won")}
    return rows


def phase_seconds(steps: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Seconds by phase and by part of a step ("rollout", "score", "train", ...)."""
    found: dict[str, dict[str, float]] = {}
    for row in steps:
        parts = row.get("seconds")
        if not isinstance(parts, Mapping):
            parts = {"all": parts}
        for part, seconds in parts.items():
            if part == row.get("phase"):  # a phase that is not timed in parts
                part = "all"
            if math.isfinite(number(seconds)):
                cell = found.setdefault(str(row.get("phase")), {})
                cell[part] = cell.get(part, 0.0) + float(seconds)
    order = list(PHASE_NAMES)
    return dict(sorted(found.items(), key=lambda kv: order.index(kv[0]) if kv[0] in order else 99))


def drop_rows(rounds: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Filter drops: the reasons (most frequent first) and, a round, what was kept and dropped."""
    rows = [item for item in rounds if "kept" in item or item.get("dropped")]
    totals: dict[str, int] = {}
    for item in rows:
        for reason, count in (item.get("dropped") or {}).items():
            totals[reason] = totals.get(reason, 0) + int(count)
    reasons = sorted(totals, key=lambda name: (-totals[name], name))
    return reasons, [
        {
            "round": item["round"],
            "kept": int(item.get("kept") or 0),
            "dropped": [int((item.get("dropped") or {}).get(name, 0)) for name in reasons],
        }
        for item in rows
    ]


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of a run, checked for what every reader relies on."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found; expected the folder of a finished run "
            "(finish it with python -m sectow_fast.train --resume)"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON object ({error})") from None
    if not isinstance(found, dict) or found.get("schema") != 1:
        schema = found.get("schema") if isinstance(found, dict) else type(found).__name__
        raise UserError(f"{path}: field schema: expected 1, found {schema!r}")
    rounds = found.get("rounds")
    if not isinstance(rounds, list) or not all(
        isinstance(item, dict) and isinstance(item.get("round"), int) for item in rounds
    ):
        raise UserError(f"{path}: field rounds: expected a list of objects, each with a round")
    return found


def load(run_dir: str | Path) -> RunData:
    """Read a run folder. Only summary.json must be there; a broken file raises UserError."""
    folder = Path(run_dir)
    summary = read_summary(folder / "summary.json")
    steps, events, torn = [], [], 0
    if (folder / "metrics.jsonl").exists():
        reader = read(folder / "metrics.jsonl")
        for row in reader:
            if isinstance(row.get("event"), Mapping):
                events.append(row["event"])
            else:
                steps.append(row)
        torn = reader.torn
    if not events:  # a log that was not kept: the summary has the monitors' events too
        for item in summary["rounds"]:
            events += [e for e in item.get("events") or [] if isinstance(e, Mapping)]
    pool = list(read(folder / "pool.jsonl")) if (folder / "pool.jsonl").exists() else []
    config = folder / "config.toml"
    return RunData(
        folder=folder,
        summary=summary,
        steps=steps,
        events=events,
        pool=pool,
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        torn=torn,
        rounds=sorted(summary["rounds"], key=lambda item: item["round"]),
    )
