"""TRL's own update beside TRL with our loss: seconds and memory of a `training_step`, in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CASES = [(32_000, 1.0), (32_000, 0.5), (151_936, 1.0), (151_936, 0.5)]
PAIRS = 2


def measured(kind: str, vocabulary: int, live: float) -> dict[str, float]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "embedding_trl.py", kind, str(vocabulary), str(live)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_update_in_trl_with_and_without_us(capsys, keep):
    pytest.importorskip("trl")
    rows = []
    for vocabulary, live in CASES:
        found = {"trl": [], "ours": []}
        for _ in range(PAIRS):
            for kind, runs in found.items():
                runs.append(measured(kind, vocabulary, live))
        middle = {
            kind: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            for kind, runs in found.items()
        }
        # What is timed is one and the same update.
        norms = [one["gradient_norm"] for one in middle.values()]
        assert norms[1] == pytest.approx(norms[0], rel=1e-3)
        trl, ours = middle["trl"], middle["ours"]
        row = {
            "vocabulary": vocabulary,
            "live": live,
            "trl_seconds": round(trl["seconds"], 3),
            "ours_seconds": round(ours["seconds"], 3),
            "faster": round(trl["seconds"] / ours["seconds"], 2),
            "trl_peak_mib": round(trl["peak_mib"]),
            "ours_peak_mib": round(ours["peak_mib"]),
        }
        rows.append(row)
        with capsys.disabled():
            print("\n" + "  ".join(f"{name} {value}" for name, value in row.items()))
    what = (
        "training_step of TRL 1.16's GRPOTrainer, its own and with sectow_fast.adapters.trl: Qwen2"
        " of 2 layers, width 256, 4 prompts of 32 tokens x 8 completions of 32, float32, one"
        " thread; peak over the process before training; bench/embedding_trl.py"
    )
    keep("cpu-embedding", rows, what=what, command="pytest bench/test_embedding.py")
