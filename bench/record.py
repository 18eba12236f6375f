"""Where and with what a figure was measured, the file it is kept in, and the table of a run."""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("torch", "triton", "transformers", "trl", "accelerate", "datasets", "numpy", "liger-kernel"),
    *("datasketch", "rensa", "sacrebleu", "sglang"),
    *("xformers", "flash-attn", "flash-attn-4", "cut-cross-entropy", "verl"),
)


def write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], **about: Any) -> Path:
    """NAME.json, replaced whole. `about` says what was measured and how."""
    content = {
        **about,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "rows": list(rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.json"
    part = target.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(target)
    return target


def machine() -> dict[str, Any]:
    """`load` is the one-minute average at the end: over `threads`, others were at work too."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


@functools.cache
def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def resident_mib(field: str) -> float:
    """VmRSS (current) or VmHWM (the most since the last reset) of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


@functools.cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit measured, as at the first call, with "-dirty" where files other than results
    differ from it."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!bench/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Medians, one line per row and side."""
    lines = [f"{'groups (live)':16}{'':6}{'prepare':>9}{'rollout':>9}{'train':>9}{'step s':>9}"]
    lines[0] += f"{'best s':>9}{'tokens/s':>10}{'speed-up':>10}"
    for row in rows:
        for side in ("trl", "ours"):
            one = row[side]
            name = f"{row['prompts']}x{row['group_size']} ({row['live_groups']})"
            line = f"{name if side == 'trl' else '':16}{side:6}"
            line += "".join(f"{value:9.3f}" for value in one["seconds"].values())
            line += f"{one['seconds_best']:9.3f}{one['tokens_per_second']:10d}"
            lines.append(line + (f"{row['speedup']:9.2f}x" if side == "ours" else ""))
    return lines
