"""TRL's own update beside TRL with our loss, and with shared-prefix rows too: seconds and memory of
a `training_step`, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# (vocabulary, share of groups with a signal, tokens of a prompt)
CASES = [
    (32_000, 1.0, 32),
    (32_000, 0.5, 32),
    (32_000, 0.5, 256),
    (151_936, 1.0, 32),
    (151_936, 0.5, 32),
]
KINDS = ("trl", "ours", "shared")


def measured(kind: str, *case: float) -> dict[str, float]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "embedding_trl.py", kind, *map(str, case)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_update_in_trl_with_and_without_us(capsys, keep):
    pytest.importorskip("trl")
    rows = []
    for vocabulary, live, prompt in CASES:
        found = {kind: measured(kind, vocabulary, live, prompt) for kind in KINDS}
        # What is timed is one and the same update.
        norms = [one["gradient_norm"] for one in found.values()]
        assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-3)
        row = {"vocabulary": vocabulary, "live": live, "prompt": prompt}
        for kind, one in found.items():
            row[f"{kind}_seconds"] = round(one["seconds"], 3)
            row[f"{kind}_peak_mib"] = round(one["peak_mib"])
            if kind != "trl":
                row[f"{kind}_faster"] = round(found["trl"]["seconds"] / one["seconds"], 2)
        rows.append(row)
        with capsys.disabled():
            print("\n" + "  ".join(f"{name} {value}" for name, value in row.items()))
    what = (
        "training_step of TRL 1.16's GRPOTrainer, its own and with sectow_fast.adapters.trl: Qwen2"
        " of 2 layers, width 256, 4 prompts x 8 completions of 32 tokens, float32, one"
        " thread; peak over the process before training; bench/embedding_trl.py"
    )
    keep("cpu-embedding", rows, what=what, command="pytest bench/test_embedding.py")
