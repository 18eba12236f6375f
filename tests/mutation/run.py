"""`make mutate [ROOMS=game,tug]`: mutation tests of the method by room (docs/MUTATION.md)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from rooms import ROOMS, ROOT

from sectow_fast.types import wilson

CAUGHT = ("killed", "timeout", "crash")


def counts(rows: list[dict]) -> tuple[int, int]:
    """(caught, all)."""
    return sum(row["status"] in CAUGHT for row in rows), len(rows)


def shown(name: str, rows: list[dict], every: int) -> str:
    """every: how many mutants there are; where `rows` are fewer, the score has its interval."""
    caught, total = counts(rows)
    kinds = Counter(row["status"] for row in rows)
    details = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    line = f"{name:12} {caught:5}/{total:<5} {caught / max(total, 1):6.1%}  ({details})"
    if total < every:
        rate = wilson(caught, total)
        line += f"  drawn of {every}: {rate.low:.1%} to {rate.high:.1%}"
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="?", default="", help="names with commas; none: all")
    parser.add_argument("--out", default="build/mutation", help="folder of the JSON files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--least", type=float, default=0.0, help="exit 1 where a room has less")
    parser.add_argument("--sample", type=int, help="try so many mutants of a room, drawn at random")
    given = parser.parse_args()
    names = given.rooms.split(",") if given.rooms else list(ROOMS)
    if unknown := set(names) - set(ROOMS):
        parser.error(f"found room {sorted(unknown)[0]!r}, expected one of {', '.join(ROOMS)}")
    out = ROOT / given.out
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        command = [sys.executable, str(Path(__file__).with_name("room.py")), name]
        subprocess.run(
            [*command, str(out / f"{name}.json"), str(given.jobs), str(given.sample or "")],
            check=True,
        )
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in names}
    for name, room in found.items():
        for row in room["mutants"]:
            if row["status"] not in CAUGHT:
                print(f"\n{name} {row['file']}:{row['line']} {row['function']} {row['status']}")
                print(row["diff"])
    print()
    for name, room in found.items():
        print(
            shown(name, room["mutants"], room["every"]),
            f" tests {room['tests_seconds']} s,",
            end="",
        )
        print(f" run {room['run_seconds']} s ({room['run_cpu_seconds']} s of CPU)")
    if given.sample is None:
        rows = [row for room in found.values() for row in room["mutants"]]
        print(shown("total", rows, len(rows)))
    scores = {name: counts(room["mutants"]) for name, room in found.items()}
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    return int(any(caught < given.least * total for caught, total in scores.values()))


if __name__ == "__main__":
    sys.exit(main())
