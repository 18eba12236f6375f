"""Words of the evaluation's command, and what it leaves in `--out`."""

from __future__ import annotations

import json

FEW = ("--max-new-tokens", "6", "--batch", "16")


def suites(toys, *names):
    return [word for name in names for word in ("--suite", f"{name}={toys / name}")]


def records(out, row):
    lines = (out / "rows" / row / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summary(out):
    return json.loads((out / "summary.json").read_text())
