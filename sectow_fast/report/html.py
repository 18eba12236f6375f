"""`report.html`: one file that shows a whole run, with nothing to fetch from anywhere.

    python -m sectow_fast.report.html RUN_DIR [--reveal]

What an attack says and what it is after are left out of the file, not just out of sight, unless
`reveal` is set: a report can be passed on without passing on attacks.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sectow_fast.report.console import event_fields
from sectow_fast.report.plots import draw_all
from sectow_fast.report.rundata import (
    ATTACKER_NAMES,
    OPEN_SHARE,
    PHASE_NAMES,
    RunData,
    attacker_ratio,
    clock,
    drop_rows,
    figstep,
    interval,
    load,
    mean,
    number,
    percent,
    phase_seconds,
    rate,
    rates,
    style_rows,
    suite_names,
)
from sectow_fast.types import UserError

SAMPLE = 24  # attacks of the pool that are shown
EXPLAINED = (
    "Attack success rate (ASR) is the share of judged jailbreak requests to which the defender "
    "gives harmful help, greedy decoding; replies the judge could not tell are counted apart. "
    "Over-refusal rate (ORR) is the share of harmless requests that it refuses. Accuracy is the "
    "share of harmless questions with a short answer that it gets right (a refusal is wrong). "
    "Attacker gain is how many times as often the trained attacker's requests succeed as "
    "self-instruct requests do, both on held-out seeds against the round-0 defender. Round 0 is "
    "the defender before any reinforcement learning. Small figures are 95 % intervals (Wilson; "
    "those of a mean from its suites, in quadrature)."
)


def _points(before: float, after: float) -> str:
    """A change in percentage points with its sign."""
    change = 100 * (after - before)
    return f"{change:+.1f} points" if math.isfinite(change) else ""


def headlines(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The figures on top: label, big value, what it was before, and a remark."""
    if not rounds:
        return []
    first, last = rounds[0], rounds[-1]
    cards = []
    for label, pick in (
        ("Mean ASR", lambda item: mean(item, "asr")),
        ("FigStep ASR", figstep),
        ("Mean ORR", lambda item: mean(item, "orr")),
        ("Accuracy", lambda item: mean(item, "accuracy")),
    ):
        before, after = pick(first)["value"], pick(last)["value"]
        if math.isfinite(after):
            bounds = interval(pick(last))
            remark = f"95 %: {bounds}" if bounds else ""
            if label == "Accuracy":
                remark = _points(before, after)
            cards.append(
                {
                    "label": label,
                    "value": percent(after),
                    "before": f"{100 * before:.1f}" if last is not first and before >= 0 else "",
                    "remark": remark,
                }
            )
    gain = attacker_ratio(rounds)
    if gain:
        remark = f"{percent(gain['trained']['value'])} against {percent(gain['self']['value'])}"
        cards.append(
            {
                "label": "Attacker gain",
                "value": f"{gain['ratio']:.1f}×",
                "before": "",
                "remark": remark,
            }
        )
    return cards


def round_table(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of measures, a cell a round: {"name", "kind", "cells": [{"value", "bounds"}]}."""
    rows: list[dict[str, Any]] = []

    def add(name: str, kind: str, found: Sequence[Mapping[str, float]]) -> None:
        cells = []
        for item in found:
            unknown = item.get("unknown") or 0
            note = f"{unknown:.0f} unknown" if unknown > 0 else ""
            cells.append(
                {
                    "value": percent(item["value"]).removesuffix(" %"),
                    "bounds": interval(item),
                    "note": note,
                }
            )
        rows.append({"name": name, "kind": kind, "cells": cells})

    for title, key in (
        ("ASR", "asr"),
        ("ASR, T = 1", "asr_t1"),
        ("ORR", "orr"),
        ("Accuracy", "accuracy"),
    ):
        blocks = [rates(item.get(key)) for item in rounds]
        if not any(blocks):
            continue
        add(f"{title}, mean", "head", [mean(item, key) for item in rounds])
        if key != "asr_t1":
            for name in suite_names(rounds, key):
                add(name, "part", [block.get(name, rate(None)) for block in blocks])
    names = [name for item in rounds for name in item.get("attacker_success") or {}]
    for index, name in enumerate(dict.fromkeys(names)):
        if not index:
            rows.append({"name": "Attacker success", "kind": "head", "cells": [{}] * len(rounds)})
        found = [rate((item.get("attacker_success") or {}).get(name)) for item in rounds]
        add(ATTACKER_NAMES.get(name, name), "part", found)
    kept = [{"value": str(item["kept"]) if "kept" in item else "–"} for item in rounds]
    rows.append({"name": "Attacks kept (count)", "kind": "head", "cells": kept})
    return rows


def pool_view(pool: Sequence[Mapping[str, Any]], reveal: bool) -> dict[str, Any]:
    """Counts by round and style, and, with `reveal` only, a sample spread over the rounds."""
    counts = Counter((int(item.get("round") or 0), str(item.get("style", "?"))) for item in pool)
    styles = Counter(str(item.get("style", "?")) for item in pool)
    picked: list[Mapping[str, Any]] = []
    if reveal:
        chosen = random.Random("pool sample").sample(range(len(pool)), min(SAMPLE, len(pool)))
        picked = [pool[index] for index in sorted(chosen)]
    return {
        "size": len(pool),
        "rounds": sorted({round_ for round_, _ in counts}),
        "styles": [
            {
                "style": style,
                "total": total,
                "by_round": {r: n for (r, name), n in counts.items() if name == style},
            }
            for style, total in styles.most_common()
        ],
        "sample": [
            {
                "round": item.get("round"),
                "mode": item.get("mode"),
                "style": item.get("style"),
                "words": item.get("words"),
                "goal": item.get("goal"),
                "image": item.get("image"),
                "success": percent(number(item.get("success")), 0),
            }
            for item in picked
        ],
    }


def time_rows(run: RunData) -> list[dict[str, Any]]:
    """A row a phase: seconds, share of the wall time, steps, tokens a second (median step)."""
    wall, rows = number(run.summary.get("wall_seconds")), []
    for name, parts in phase_seconds(run.steps).items():
        steps = [row for row in run.steps if row.get("phase") == name]
        speeds = sorted(
            value for row in steps if (value := number(row.get("tokens_per_second"))) >= 0
        )
        total = sum(parts.values())
        rows.append(
            {
                "name": PHASE_NAMES.get(name, name),
                "time": clock(total),
                "seconds": total,
                "share": percent(total / wall, 0) if wall > 0 else "–",
                "steps": len(steps),
                "speed": f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "–",
            }
        )
    rest = wall - sum(row["seconds"] for row in rows)
    if rows and rest > 0.5:
        share = percent(rest / wall, 0)
        rows.append({"name": "everything else", "time": clock(rest), "share": share, "speed": "–"})
    return rows


def _event_rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for item in map(event_fields, events):
        item["phase"] = PHASE_NAMES.get(str(item.get("phase")), item.get("phase"))
        rows.append(item)
    return rows


def render(run: RunData, reveal: bool = False) -> str:
    """The page of a run that was loaded; draws the figures into `plots/` on the way."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sectow_fast.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    figures = draw_all(run, run.folder / "plots")
    reasons, drops = drop_rows(run.rounds)
    summary = run.summary
    variant = [f"{role} {summary[role]}" for role in ("attacker", "defender") if role in summary]
    variant += [f"ablate {name}" for name in summary.get("ablate") or ()]
    return environment.get_template("report.html.j2").render(
        name=run.folder.resolve().name,
        summary=summary,
        variant=", ".join(variant),
        wall=clock(number(summary.get("wall_seconds"))),
        cards=headlines(run.rounds),
        explained=EXPLAINED,
        rounds=[item["round"] for item in run.rounds],
        table=round_table(run.rounds),
        # Our own drawing: its texts were escaped by the SVG writer.
        figures={key: (title, Markup(text)) for key, (title, text) in figures.items()},
        styles=style_rows(run.rounds),
        open_share=percent(OPEN_SHARE, 0),
        pool=pool_view(run.pool, reveal),
        reveal=reveal,
        events=_event_rows(run.events),
        reasons=reasons,
        drops=drops,
        times=time_rows(run),
        config=run.config,
        torn=run.torn,
        command=f"python -m sectow_fast.report.html {run.folder} --reveal",
    )


def write_report(run_dir: str | Path, reveal: bool = False) -> Path:
    """Write `report.html` and `plots/*.png` into a finished run's folder; returns the page's path.

    The page is put in place whole or not at all. UserError for a folder that is not a run.
    """
    run = load(run_dir)
    path = run.folder / "report.html"
    part = path.with_suffix(".html.part")
    part.write_text(render(run, reveal), encoding="utf-8")
    os.replace(part, path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m sectow_fast.report.html", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--reveal", action="store_true", help="show the words of attacks")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run_dir, options.reveal))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
