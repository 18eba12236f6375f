"""`report.html` of an evaluation: any number of models side by side, one file, nothing to fetch.

    python -m sectow_fast.report.models OUT [--reveal] [--private]

Requests and replies are left out of the file, not just out of sight, unless `reveal` is set; those
of suites that may not be passed on need `private` too.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup

from sectow_fast.records import evaluation_rows
from sectow_fast.report.metrics import read
from sectow_fast.report.model_words import (
    MEANS,
    SHORT,
    TITLES,
    matched_words,
    people_words,
    seen_words,
    tries,
)
from sectow_fast.report.page import COLOURS, STYLE, Cell, figure, legend, render, svg, write_page
from sectow_fast.report.rundata import bounds, percent
from sectow_fast.types import Rate, UserError

SAMPLE = 8  # records of each row and suite that are shown
LONGEST = 600  # letters of a request or reply that are shown


def cell(rate: Rate | None, best: float | None = None) -> Cell:
    """A table cell: value, interval, number of cases, and what could not be told."""
    if rate is None:
        return Cell()
    if not rate.n:
        return Cell(value="–", note=f"{rate.unknown} unknown")
    note = f"n {rate.n}" + (f", {rate.unknown} unknown" if rate.unknown else "")
    if rate.objects is not None and rate.objects < rate.n:
        note += f", {rate.objects} goals"
    is_best = best is not None and math.isclose(rate.value, best, abs_tol=1e-12)
    return Cell(value=percent(rate.value, unit=""), bounds=bounds(rate), note=note, best=is_best)


def overview(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line per model: plain means first, then every suite's rate, measure by measure."""
    columns: list[tuple[str, str]] = []
    for measure in TITLES:
        names = [n for row in rows for n, t in row["suites"].items() if measure in t]
        columns += [(measure, name) for name in dict.fromkeys(names)]
    lines = []
    for row in rows:
        cells = []
        for measure, name in columns:
            rates = [_all(other, name, measure) for other in rows]
            known = [rate.value for rate in rates if rate and rate.n]
            pick = max if measure == "accuracy" else min
            best = pick(known) if len(known) > 1 and len(set(known)) > 1 else None
            cells.append(cell(_all(row, name, measure), best))
        means = {name: row["mean"].get(name) for name in MEANS}
        lines.append(
            {"name": row["name"], "defence": row["defence"], "means": means} | {"cells": cells}
        )
    return {
        "columns": [{"measure": SHORT[m], "name": n} for m, n in columns],
        "groups": [
            {"title": TITLES[m], "span": sum(1 for one, _ in columns if one == m)}
            for m in TITLES
            if any(one == m for one, _ in columns)
        ],
        "measures": [name for name in MEANS if any(row["mean"].get(name) for row in rows)],
        "lines": lines,
    }


def details(rows: Sequence[Mapping[str, Any]], suites: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per suite and measure: tables by format and by category, one column per model."""
    out = []
    for name in dict.fromkeys(n for row in rows for n in row["suites"]):
        tables: list[dict[str, Any]] = []
        groups = 0
        for measure in TITLES:
            mine = [row["suites"].get(name, {}).get(measure) for row in rows]
            if not any(mine):
                continue
            groups = max(groups, *(table["groups"] for table in mine if table))
            for key, title in (("by_format", "format"), ("by_category", "category")):
                parts = dict.fromkeys(part for table in mine if table for part in table[key])
                if len(parts) < 2:
                    continue  # it would repeat the overview
                lines = [
                    {
                        "name": part,
                        "cells": [cell(_rate(t[key].get(part)) if t else None) for t in mine],
                    }
                    for part in parts
                ]
                whole = {
                    "name": "all",
                    "cells": [cell(_rate(t["all"]) if t else None) for t in mine],
                }
                tables.append(
                    {
                        "title": f"{SHORT[measure]} by {title}",
                        "folded": len(lines) > 14,
                        "lines": [whole, *lines],
                    }
                )
        known = suites.get(name, {})
        counts = [
            {"name": row["name"]} | {k: row["suites"][name][k] for k in COUNTED}
            for row in rows
            if name in row["suites"]
        ]
        out.append(
            {"name": name, "info": known, "tables": tables, "counts": counts, "groups": groups}
        )
    return out


COUNTED = ("partial_refusals", "no_reply", "cut", "unknown_words", "replaced")


def dots(rows: Sequence[Mapping[str, Any]], measure: str) -> Markup | None:
    """One line per suite, one dot per model with its 95 % interval."""
    names = dict.fromkeys(n for row in rows for n, t in row["suites"].items() if measure in t)
    if not names:
        return None
    count = len(rows)
    height = 0.7 + len(names) * (0.2 + 0.17 * count) + 0.2 * math.ceil(count / 3)
    made, (axes,) = figure(height)
    for at, row in enumerate(rows):
        colour = COLOURS[at % len(COLOURS)]
        for line, name in enumerate(names):
            rate = _all(row, name, measure)
            if not rate or not rate.n:
                continue
            y = line + (at - (count - 1) / 2) * 0.7 / max(count, 2)
            low, high = 100 * rate.low, 100 * rate.high
            axes.plot([low, high], [y, y], color=colour, linewidth=1.6, alpha=0.55)
            label = row["name"] if line == 0 else None
            axes.plot(100 * rate.value, y, "o", color=colour, markersize=4.5, label=label)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(-2, 102)
    axes.set_xlabel(f"{SHORT[measure]}, percent")
    axes.grid(axis="y", visible=False)
    legend(made, axes, columns=2)
    return Markup(svg(made, measure, TITLES[measure]))


def sample_of(
    out: Path, rows: Sequence[Mapping[str, Any]], suites: Mapping[str, Any], private: bool
) -> list[dict[str, Any]]:
    """Some records of every row and suite, drawn alike for all rows."""
    shown = []
    for row in rows:
        path = out / "rows" / row["folder"] / "records.jsonl"
        records = list(read(path))
        for name in row["suites"]:
            if not suites.get(name, {}).get("redistributes", True) and not private:
                continue
            mine = sorted(
                (r for r in records if r["benchmark"] == name), key=lambda r: r["test_case_id"]
            )
            picked = random.Random(f"sample/{name}").sample(
                range(len(mine)), min(SAMPLE, len(mine))
            )
            for at in sorted(picked):
                record = mine[at]
                shown.append(
                    {
                        "row": row["name"],
                        "id": record["test_case_id"],
                        "request": (record["prompt"] or "")[:LONGEST],
                        "reply": (record["model_response"] or "")[:LONGEST],
                        "label": record["label"],
                        "refusal": record["refusal"],
                        "correct": record["correct"],
                    }
                )
    return shown


def write_report(out: str | Path, *, reveal: bool = False, private: bool = False) -> Path:
    """Write OUT/report.html, whole or not at all. UserError for a folder that is no evaluation."""
    out = Path(out)
    try:
        summary = json.loads((out / "summary.json").read_text())
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"{out}: found no readable summary.json, expected the --out of an evaluation"
        ) from None
    if not isinstance(summary, dict) or not {"rows", "suites"} <= summary.keys():
        raise UserError(
            f"{out / 'summary.json'}: fields rows and suites: found none, expected the --out of an"
            " evaluation; a run's report is made by python -m sectow_fast.report.html"
        )
    rows, suites = evaluation_rows(out / "summary.json", summary), summary["suites"]
    with matplotlib.rc_context(STYLE):
        figures = [(TITLES[m], dots(rows, m)) for m in TITLES]
    hidden = [n for n, info in suites.items() if not info["redistributes"]]
    text = render(
        "models.html.j2",
        name=out.resolve().name,
        summary=summary,
        rows=rows,
        overview=overview(rows),
        short=MEANS,
        figures=[(title, drawn) for title, drawn in figures if drawn],
        details=details(rows, suites),
        at=tries(rows),
        matched=matched_words(summary),
        seen=seen_words(rows, suites),
        agreements=[row for row in rows if row.get("agreement")],
        sample=sample_of(out, rows, suites, private) if reveal else [],
        withheld=[] if private else hidden,
        people=people_words(summary),
        measures=[m for m in TITLES if any(m in t for row in rows for t in row["suites"].values())],
        reveal=reveal,
        command=f"python -m sectow_fast.report.models {out} --reveal",
    )
    return write_page(out / "report.html", text, owner_only=True)


def print_table(summary: Mapping[str, Any]) -> None:
    """The overview on the console: rates and intervals, never a request or a reply."""
    from rich.console import Console
    from rich.table import Table

    found = overview(summary["rows"])
    table = Table("percent", *(line["name"] for line in found["lines"]))
    for at, column in enumerate(found["columns"]):
        cells = [line["cells"][at] for line in found["lines"]]
        table.add_row(
            f"{column['measure']} {column['name']}",
            *(f"{c.value} [{c.bounds}] {c.note}".replace("[]", "") for c in cells),
        )
    Console().print(table, markup=False)
    for words in (matched_words(summary), *seen_words(summary["rows"], summary.get("suites", {}))):
        if words:
            print(words)
    print(f"judged by {summary['judge']}; {people_words(summary)}")


def _all(row: Mapping[str, Any], suite: str, measure: str) -> Rate | None:
    table = row["suites"].get(suite, {}).get(measure)
    return _rate(table["all"]) if table else None


def _rate(found: Mapping[str, Any] | None) -> Rate | None:
    return Rate(**found) if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m sectow_fast.report.models")
    parser.add_argument("out", type=Path)
    parser.add_argument("--reveal", action="store_true", help="show requests and replies")
    parser.add_argument("--private", action="store_true", help="also of suites not to be passed on")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.out, reveal=options.reveal, private=options.private))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
