"""Runs the trainer's steps over the twin and prints what the ledger met, as JSON.

    python driver.py --guard guard.so JOB...

A job is FAMILY, or FAMILY:FAULT,FAULT with planted errors of steps.py. The JSON is
{JOB: {STEP: {"mismatches": {line: count}, "syncs": {line: count}, "launches": n, "peak": bytes,
"rows": n, "metrics": {...}}}}. A step that raises has {"error": "..."} instead.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import twin


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", type=Path, required=True)
    parser.add_argument("--meet", type=Path, help="a file where two ranks meet")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("jobs", nargs="*")
    args = parser.parse_args()
    twin.load(args.guard)

    from steps import joined, measured  # imports torch

    ranks = joined(args.meet, args.rank)
    found = {job: measured(*job.partition(":")[::2]) for job in args.jobs}

    import presets

    for preset in presets.MODELS:
        for adapters in (False, True):
            job = f"{preset} {adapters}"
            found[job] = {"grpo": presets.played(preset, adapters=adapters, ranks=ranks)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
