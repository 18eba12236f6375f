"""How `near_duplicates` grows from 1k to 1M documents, with a plot beside the rows.

Documents of 64 random tokens, a third of them copies with a few tokens replaced. Each size runs in
a process of its own, so that its peak memory is its own. The memory of its input arrays is
subtracted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LENGTH = 64
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def memory_mib(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


def grow(count: int) -> dict[str, float]:
    from sectow_fast.native import near_duplicates

    rng = np.random.default_rng(count)
    ids = rng.integers(0, 150_000, (count, LENGTH), dtype=np.int32)
    copies = count // 3
    ids[-copies:] = ids[:copies]
    ids[np.arange(count - copies, count), rng.integers(0, LENGTH, copies)] = 7
    offsets = np.arange(count + 1, dtype=np.int64) * LENGTH
    before = memory_mib("VmRSS")
    begin = time.perf_counter()
    keep, _ = near_duplicates(ids.reshape(-1), offsets)
    seconds = time.perf_counter() - begin
    extra = memory_mib("VmHWM") - before
    return {"documents": count, "seconds": seconds, "extra_mib": extra, "kept": int(keep.sum())}


def test_growth(keep, request):
    rows = []
    for count in SIZES:
        command = [sys.executable, __file__, str(count)]
        path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=path)
        rows.append(json.loads(done.stdout))
        print(rows[-1])
    keep("native-growth", rows, what=__doc__)
    folder = request.config.getoption("--record")
    if folder is not None:
        plot(rows, Path(folder) / "native-growth.png")


def plot(rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, title in zip(
        figure.subplots(1, 2),
        ("seconds", "extra_mib"),
        ("seconds", "extra memory, MiB"),
        strict=True,
    ):
        x = [row["documents"] for row in rows]
        y = [row[key] for row in rows]
        axes.loglog(x, y, marker="o", color="#3a7fc2")
        axes.loglog(x, [y[-1] * n / x[-1] for n in x], ":", color="#5b6875", label="linear")
        axes.set(title=title, xlabel="documents of 64 tokens")
        axes.grid(True, color="#d5dbe1", linewidth=0.5)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    print(json.dumps(grow(int(sys.argv[1]))))
