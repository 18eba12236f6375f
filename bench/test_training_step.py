"""The policy update with four layouts of completions, over G, prompt and completion length.

The prompt is computed once per group (`shared`), or once per completion without padding
(`unshared`); whole sequences are in padded batches (`padded`); TRL 1.16's GRPOTrainer takes the
same completions (`trl`). All make the same update, which is checked, and take turns in one process.
Two ratios are predicted by counting: that of tokens through the decoder, G (P + C) / (P + G C), and
that of all products (decoder, vision tower, head: `Count.work`), which is closer to the time.
`pytest bench/test_training_step.py`, a quarter of an hour; `bench/training_runs.py` says how each
figure is taken.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from scene import Scene  # noqa: E402
from training_contenders import POLICIES, count  # noqa: E402
from training_runs import peak_mib, timed  # noqa: E402

CENTRE = (8, 256, 32)  # G, prompt, completion
BUDGET = 4096  # tokens per micro-batch: for each contender the fastest of 1k to 9k, or within noise
WORK = {"llava": 4608, "qwen2": 2304}  # least tokens per update, without sharing
SWEEP = {
    "llava": [
        *((g, 256, 32) for g in (2, 4, 8, 16, 32)),
        *((8, p, 32) for p in (64, 1024, 2048)),
        *((8, 256, c) for c in (16, 128, 512)),
        *((2, 64, 512), (32, 1024, 16)),
    ],
    "qwen2": [(2, 256, 32), CENTRE, (8, 1024, 32), (8, 64, 128)],
}
ROUNDS = 3
MEMORY = [CENTRE, (32, 256, 32)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def scene_of(kind: str, shape: tuple[int, int, int]) -> Scene:
    size, prompt, completion = shape
    prompts = max(2, -(-WORK[kind] // (size * (prompt + completion))))
    return Scene(
        kind=kind,
        group_size=size,
        prompt=prompt,
        completion=completion,
        prompts=prompts,
        tokens_per_batch=max(BUDGET, prompt + completion),
        device=DEVICE,
    )


def backends() -> list[str]:
    """On a GPU every one that is installed; on a CPU there is one."""
    if DEVICE == "cpu":
        return ["sdpa"]
    installed = {"flash": "flash_attn", "xformers": "xformers"}
    found = [name for name, package in installed.items() if importlib.util.find_spec(package)]
    return ["flex", "sdpa", *found]


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) in a process of its own, which has imported everything and held nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "trl", "datasets"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    return {"updates": [], "memory": [], "steps": []}


@pytest.mark.parametrize(
    ("kind", "shape"), [(k, shape) for k, row in SWEEP.items() for shape in row]
)
def test_update(found, kind, shape):
    scene = scene_of(kind, shape)
    seconds = timed(scene, ROUNDS, backends(), trl=True)
    ours, plain = count(scene, shared=True), count(scene, shared=False)
    shared = next(value for name, value in seconds.items() if name.startswith("shared"))
    row = {
        "model": kind,
        "group_size": shape[0],
        "prompt": shape[1],
        "completion": shape[2],
        "prompts": scene.prompts,
        "seconds": seconds,
        "tokens_per_second": {name: round(scene.tokens / s) for name, s in seconds.items()},
        "predicted_by_tokens": round(plain.decoder / ours.decoder, 3),
        "predicted_by_work": round(plain.work / ours.work, 3),
        "measured": {name: round(s / shared, 3) for name, s in seconds.items()},
    }
    found["updates"].append(row)
    print(row)


@pytest.mark.parametrize("shape", MEMORY)
def test_memory(found, shape):
    scene = scene_of("llava", shape)
    peaks = {name: fresh(peak_mib, scene, name) for name in (*POLICIES, "trl")}
    found["memory"].append({"model": "llava", "shape": shape, "mib": peaks})
    print(peaks)


@pytest.mark.parametrize("prompts", [2, 16])
def test_whole_step_beside_trl(found, tmp_path, prompts):
    """Rollout and update at the centre of the sweep, with few prompts and with more."""
    from pair import run_pair

    scene = dataclasses.replace(scene_of("llava", CENTRE), drawn=True, prompts=prompts)
    row = run_pair(scene, tmp_path, steps=4)
    found["steps"].append({"shape": CENTRE} | row)
    print(row)


def test_write(found, keep):
    """Runs last: writes what was measured where --record says."""
    for name, rows in found.items():
        assert rows, name
    keep("cpu-training-step" if DEVICE == "cpu" else "gpu-training-step", [found])
