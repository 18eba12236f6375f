"""`python -m sectow_fast.train --engine.kind sglang`, whole, with what can befall it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--engine.kind", "sglang", "--rounds", "1", "--threads", "1", "--save_every", "3"),
    *("--coldstart.caption_steps", "4", "--coldstart.defender_steps", "150"),
    *("--coldstart.attacker_steps", "40", "--coldstart.batch", "32"),
    *("--attack.steps", "6", "--attack.prompts", "4", "--attack.group_size", "4"),
    *("--defend.steps", "6", "--defend.prompts", "6", "--defend.group_size", "4"),
    *("--harvest.attacks", "12", "--harvest.replies", "1", "--monitor.every", "2"),
    *("--evaluate.attacker_cases", "8", "--sandbox.suite_size", "8"),
    *("--sandbox.picture_variants", "2"),
]


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "sectow_fast.train", "--plain", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def rows(folder: Path, phase: str) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in found if row.get("phase") == phase and "step" in row]


def wait_for(process: subprocess.Popen, folder: Path, phase: str, steps: int) -> None:
    end = time.monotonic() + 480
    while len(rows(folder, phase)) < steps:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


def engine_processes(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children(recursive=True) if "sglang" in p.name()]


def test_killed_schedulers_and_a_killed_trainer_cost_no_sample(tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, "--out", str(folder))
    wait_for(process, folder, "attack", 2)
    schedulers = [p for p in engine_processes(process.pid) if "scheduler" in p.name()]
    assert len(schedulers) == 2
    for scheduler in schedulers:
        scheduler.kill()
    wait_for(process, folder, "attack", 5)
    restarts = max(row["engine"]["restarts"] for row in rows(folder, "attack"))
    assert restarts in (1, 2)  # the defender's is restarted when it is next asked
    # The trainer itself: nothing of the engine may outlive it.
    left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
    again = start("--resume", str(folder))
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    attack, defend = rows(folder, "attack"), rows(folder, "defend")
    assert [r["step"] for r in attack] == list(range(6))
    assert [r["step"] for r in defend] == list(range(6))
    for row in [*attack, *defend]:
        # A step whose groups are all dead has no trainer forward to compare with.
        assert row["dead_groups"] == 1 or row["mismatch_kl"] < 1e-4
    assert any(row["dead_groups"] < 1 for row in defend)
    summary = json.loads((folder / "summary.json").read_text())
    assert [r["round"] for r in summary["rounds"]] == [0, 1]
    assert "sglang" in summary["versions"]
    assert not [p for p in psutil.process_iter() if str(folder) in " ".join(_line(p))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
