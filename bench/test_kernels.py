"""The policy loss against its peers: time and extra memory. `pytest bench/test_kernels.py`.

On a CPU each contender runs in a process of its own, so that its peak memory is its own. On CUDA
(`make gpu-check`) the shapes are those of a 1.5B and a 7B head.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
CPU_SHAPES = [(2048, 512, 32_000), (2048, 512, 151_936)]
CUDA_SHAPES = [(16_384, 2048, 151_936), (16_384, 3584, 151_936)]
DEAD = ("none", "masked", "zero")


def memory_mib(field: str) -> float:
    """VmRSS (current) or VmHWM (the most since the last reset) of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


def run_on_cpu(name: str, n: int, h: int, v: int, dead: str) -> dict:
    """In a fresh process: the shortest of some runs, and what it took beyond its inputs.

    Seconds are processor time (one thread, page faults included), which other work on the machine
    affects less.
    """
    from kernel_contenders import CONTENDERS, Scene

    torch.set_num_threads(1)
    try:
        function = CONTENDERS[name]()
    except ImportError as error:
        return {"absent": str(error)}
    scene = Scene.make(n, h, v, torch.float32, "cpu", dead)
    # Imports, first calls, and the pages of the libraries that they bring in.
    function(Scene.make(512, h, 2048, torch.float32, "cpu", dead))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the inputs
    before, seconds = memory_mib("VmRSS"), []
    for _ in range(2 if v > 100_000 else 5):
        scene.clear()
        start = time.process_time()
        function(scene)
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "extra_mib": memory_mib("VmHWM") - before}


def run_on_cuda(name: str, n: int, h: int, v: int, dead: str) -> dict:
    from kernel_contenders import CONTENDERS, Scene

    try:
        function = CONTENDERS[name]()
    except ImportError as error:
        return {"absent": str(error)}
    scene = Scene.make(n, h, v, torch.bfloat16, "cuda", dead)
    try:
        return timed_on_cuda(lambda: function(scene), scene.clear)
    except torch.cuda.OutOfMemoryError:
        return {"absent": "out of memory"}


def timed_on_cuda(function, clear=lambda: None, repeats: int = 15) -> dict:
    seconds = []
    for _ in range(3):
        clear()
        function()
    torch.cuda.synchronize()
    clear()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        clear()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {"seconds": statistics.median(seconds), "extra_mib": extra}


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
    "linear_policy_loss",
    "linear_logprob + policy_loss",
    "torch eager",
    "TRL chunked log-prob",
    "Liger fused-linear GRPO",
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CUDA rows are test_cuda")
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda(keep):
    from kernel_contenders import CONTENDERS

    big = torch.randn(1 << 28, device="cuda", dtype=torch.bfloat16)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy = timed_on_cuda(big.clone)["seconds"]
    product = timed_on_cuda(lambda: torch.mm(square, square))["seconds"]
    rows = [
        {"name": "device copy, TB/s", "value": 2 * big.nbytes / copy / 1e12},
        {"name": "8192^3 bf16, TFLOP/s", "value": 2 * 8192**3 / product / 1e12},
    ]
    policy = [
        {"name": name, "shape": shape, "dead": dead} | run_on_cuda(name, *shape, dead)
        for shape in CUDA_SHAPES
        for dead in DEAD
        for name in CONTENDERS
    ]
    keep("kernels-cuda", rows + small_kernels() + policy, card=torch.cuda.get_device_name())
    print("\n", rows, "\n" + table(policy))


def small_kernels() -> list[dict]:
    """Bytes read and written once, over time; in TB/s, beside eager torch."""
    from sectow_fast.kernels import advantage, group_advantage, loss_oracle, policy_loss

    rows = []
    for count in (1_000, 32_000, 1_000_000):
        rewards = torch.rand(count, device="cuda")
        index = torch.arange(count, device="cuda") // 8
        ours = timed_on_cuda(lambda r=rewards: group_advantage(r, group_size=8))
        plain = timed_on_cuda(
            lambda r=rewards, i=index: advantage.group_advantage_oracle(
                r, i, baseline="mean", scale="std", ddof=1, eps=0.0
            )
        )
        rows.append(
            {"name": f"group_advantage {count}", "tb_per_s": 9 * count / ours["seconds"] / 1e12}
        )
        rows[-1] |= {"seconds": ours["seconds"], "eager_seconds": plain["seconds"]}
    logp, old, advantages = torch.randn(3, 1_000_000, device="cuda")
    logp.requires_grad_()
    compiled = torch.compile(loss_oracle.policy_loss_oracle)
    contenders = {
        "ours": lambda: policy_loss(logp, advantages, old_logp=old)[0].backward(),
        "eager": lambda: loss_oracle.policy_loss_oracle(logp, advantages, old_logp=old).backward(),
        "compiled": lambda: compiled(logp, advantages, old_logp=old).backward(),
    }
    times = {f"{k}_seconds": timed_on_cuda(v)["seconds"] for k, v in contenders.items()}
    return [*rows, {"name": "policy_loss 1000000"} | times]


if __name__ == "__main__":
    name, *shape, dead = sys.argv[1:]
    print(json.dumps(run_on_cpu(name, *map(int, shape), dead)))
