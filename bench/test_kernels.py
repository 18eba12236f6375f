"""The policy loss against its peers: time and extra memory. `pytest bench/test_kernels.py`.

Each contender runs in a process of its own, so that its peak memory is its own. A CUDA card is
measured by `make gpu-check` (bench/gpu_check/stage_kernels.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
CPU_SHAPES = [(2048, 512, 32_000), (2048, 512, 151_936)]


def run_on_cpu(name: str, n: int, h: int, v: int, dead: str) -> dict:
    """In a fresh process: the shortest of some runs, and what it took beyond its inputs.

    Seconds are processor time (one thread, page faults included), which other work on the machine
    affects less.
    """
    from kernel_contenders import CONTENDERS, Scene
    from record import resident_mib

    torch.set_num_threads(1)
    try:
        function = CONTENDERS[name]()
    except ImportError as error:
        return {"absent": str(error)}
    scene = Scene.make(n, h, v, torch.float32, "cpu", dead)
    # Imports, first calls, and the pages of the libraries that they bring in.
    function(Scene.make(512, h, 2048, torch.float32, "cpu", dead))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the inputs
    before, seconds = resident_mib("VmRSS"), []
    for _ in range(2 if v > 100_000 else 5):
        scene.clear()
        start = time.process_time()
        function(scene)
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "extra_mib": resident_mib("VmHWM") - before}


def table(rows: list[dict]) -> str:
    lines = ["| N, H, V | dead half | contender | time | against eager | extra memory |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        shape = ", ".join(map(str, row["shape"]))
        where = f"| {shape} | {row['dead']} | {row['name']} |"
        if "absent" in row:
            lines.append(f"{where} absent: {row['absent']} | | |")
            continue
        same = [r for r in rows if (r["shape"], r["dead"]) == (row["shape"], row["dead"])]
        base = next((r for r in same if r["name"] == "torch eager" and "seconds" in r), None)
        ratio = f"{base['seconds'] / row['seconds']:.2f}x" if base else ""
        time_, memory = f"{row['seconds']:.4g} s", f"{row['extra_mib']:.0f} MiB"
        lines.append(f"{where} {time_} | {ratio} | {memory} |")
    return "\n".join(lines)


CPU_NAMES = (
    "floor: three products",
    "linear_policy_loss",
    "linear_logprob + policy_loss",
    "torch eager",
    "TRL chunked log-prob",
    "Liger fused-linear GRPO",
)


def test_cpu(keep):
    rows = []
    for shape in CPU_SHAPES:
        for name in CPU_NAMES:
            command = [sys.executable, __file__, name, *map(str, shape), "masked"]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row = {"name": name, "shape": shape, "dead": "masked"} | json.loads(out)
            rows.append(row)
            print(row, flush=True)
    about = "forward and backward, float32; processor seconds, one thread; half of the rows masked"
    keep("kernels-cpu", rows, what=about)
    print("\n" + table(rows))


if __name__ == "__main__":
    name, *shape, dead = sys.argv[1:]
    print(json.dumps(run_on_cpu(name, *map(int, shape), dead)))
