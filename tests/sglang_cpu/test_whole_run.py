"""`python -m sectow_fast.train --engine.kind sglang`, whole, with what can befall it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import commands
import psutil

SMALL = [
    *("--engine.kind", "sglang", "--rounds", "1", "--threads", "1", "--save_every", "3"),
    *("--coldstart.caption_steps", "4", "--coldstart.defender_steps", "150"),
    *("--coldstart.attacker_steps", "40", "--coldstart.batch", "32"),
    *("--attack.steps", "6", "--attack.prompts", "4", "--attack.group_size", "4"),
    *("--defend.steps", "6", "--defend.prompts", "6", "--defend.group_size", "4"),
    *("--harvest.attacks", "12", "--harvest.replies", "1", "--monitor.every", "2"),
    *("--evaluate.attacker_cases", "8", "--sandbox.suite_size", "8"),
    *("--sandbox.picture_variants", "2", "--evaluate.leak_attacks", "6"),
]


def start(*arguments: str) -> commands.Command:
    return commands.start("sectow_fast.train", "--plain", *arguments)


def rows(folder: Path, phase: str) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in found if row.get("phase") == phase and "step" in row]


def wait_for(process: commands.Command, folder: Path, phase: str, steps: int) -> None:
    end = time.monotonic() + 480
    while len(rows(folder, phase)) < steps:
        assert process.poll() is None and time.monotonic() < end, process.communicate(timeout=1)
        time.sleep(0.02)


def schedulers(pid: int) -> list[psutil.Process]:
    """Of each engine of the trainer `pid`: the child of its host that does the work.

    It is told by its share of the work, since forks keep the name of what they are forks of."""
    hosts = [one.children() for one in psutil.Process(pid).children()]
    return [max(each, key=lambda process: process.cpu_times().user) for each in hosts if each]


def test_killed_schedulers_and_a_killed_trainer_cost_no_sample(tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, "--out", str(folder))
    wait_for(process, folder, "attack", 2)
    found = schedulers(process.pid)
    assert len(found) == 2
    for scheduler in found:
        scheduler.kill()
    wait_for(process, folder, "attack", 5)
    restarts = max(row["engine"]["restarts"] for row in rows(folder, "attack"))
    assert restarts in (1, 2)  # the defender's is restarted when it is next asked
    # The trainer itself: nothing of the engine may outlive it.
    left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
    again = start("--resume", str(folder))
    wait_for(again, folder, "defend", 1)
    seen = psutil.Process(again.pid).children(recursive=True)
    assert len(seen) >= 6  # a host, a scheduler and a detokenizer for each role
    out, errors = again.communicate(timeout=300)
    assert again.returncode == 0, out + errors
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
    _, alive = psutil.wait_procs(seen, timeout=20)  # which its engines were among
    assert not alive
