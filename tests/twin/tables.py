"""What a step met on the twin, as the tables of docs/TRAINING.md.

    python tests/twin/tables.py [--write]

`--write`: also the bounds that the tests hold, in table.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLAIN = "kernels/row_plain.py"
FAMILIES = ("qwen2_5_vl", "llava", "gemma3", "qwen2")


def built(folder: Path) -> Path:
    """The compiled guard.cpp, in `folder`."""
    from torch.utils.cpp_extension import include_paths

    guard = folder / "guard.so"
    folders = [f"-I{one}" for one in include_paths()]
    flags = ["-O0", "-shared", "-fPIC", "-std=c++20"]
    subprocess.run(["g++", *flags, str(HERE / "guard.cpp"), "-o", str(guard), *folders], check=True)
    return guard


def driven(guard: Path, *words: str) -> subprocess.Popen[str]:
    """driver.py in a process that loads the guard before torch."""
    paths = os.pathsep.join(map(str, (ROOT, HERE, ROOT / "tests" / "learn")))
    return subprocess.Popen(
        [sys.executable, str(HERE / "driver.py"), "--guard", str(guard), *words],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def waits(met: Mapping[str, Any]) -> int:
    """Host syncs of our own lines. transformers' are reported, and not bounded here. The plain
    path of a row (PLAIN) is left out, since a card runs Triton there."""
    ours = ("sectow_fast/", "kernels/", "tests/")
    places = {key: key.split(" ")[-1] for key in met["syncs"] if "<-" not in key}
    return sum(
        met["syncs"][key]
        for key, place in places.items()
        if place.startswith(ours) and PLAIN not in place
    )


def line_of(name: str, step: str, met: Mapping[str, Any]) -> str:
    """A row: micro-batches, our host syncs, those in transformers and autograd, operations,
    peak bytes."""
    plain = sum(n for where, n in met["syncs"].items() if PLAIN in where)
    theirs = sum(met["syncs"].values()) - waits(met) - plain
    numbers = (met["rows"], waits(met), theirs, met["launches"], met["peak"])
    return " | ".join((f"| {name}", step, *(f"{number:,}" for number in numbers))) + " |"


def main() -> None:
    import torch

    sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "tests" / "learn")]
    with tempfile.TemporaryDirectory() as folder:
        found = said(driven(built(Path(folder)), *FAMILIES))
    for name in FAMILIES:
        for step in ("grpo", "sft"):
            print(line_of(name, step.upper(), found[name][step]))
    import presets

    from sectow_fast.learn.shapes import training_peak

    print(f"torch {torch.__version__}; presets, with what the plan says at the end of a row:")
    for preset in presets.MODELS:
        for adapters in (False, True):
            learn, grpo = presets.settings(preset, adapters=adapters)
            plan = training_peak(presets.tiny(preset), learn, grpo, context=presets.CONTEXT)
            planned = plan.masters + plan.optimizer + plan.gradients + plan.work
            met = found[f"{preset} {adapters}"]["grpo"]
            print(line_of(preset, "yes" if adapters else "no", met) + f" {planned:,} |")
    if "--write" in sys.argv:
        kept = ("launches", "peak")
        table = {
            name: {step: {key: found[name][step][key] for key in kept} for step in ("grpo", "sft")}
            for name in FAMILIES
        }
        (HERE / "table.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
