"""What the kernels cost a program that only embeds them: seconds on top of torch, size of a
wheel."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 9
LOADED = "from sectow_fast.kernels import group_advantage, linear_policy_loss"


def seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - began


def test_import_time_and_wheel_size(tmp_path, capsys, keep):
    pairs = [(seconds("import torch"), seconds(f"import torch\n{LOADED}")) for _ in range(RUNS)]
    alone, added = (
        statistics.median(a for a, _ in pairs),
        statistics.median(b - a for a, b in pairs),
    )
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    size = wheel.stat().st_size
    with capsys.disabled():
        print(
            f"\nimport torch {alone:.2f} s, the kernels {added:.3f} s more;"
            f" wheel {size / 1e6:.2f} MB"
        )
    row = {"torch_seconds": round(alone, 3), "added_seconds": round(added, 3), "wheel_bytes": size}
    what = f"fresh processes, medians of {RUNS} pairs; bench/test_import.py"
    keep("cpu-import", [row], what=what, command="pytest bench/test_import.py")
