"""`torchrun -m sectow_fast.train`: one run by two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import commands
import psutil
import pytest
import torch
from commands import ROOT
from test_run import SMALL, run, wait_for

from sectow_fast.learn import checkpoint


def start_two(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--master-addr=127.0.0.1", f"--master-port={port}"),
            *("-m", "sectow_fast.train", *arguments),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ended(process, timeout=240):
    try:
        return process.communicate(timeout=timeout)
    finally:
        # torchrun's children outlive it where it is killed.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "step" in row and "phase" in row]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    code, _, err = run(*SMALL, "--out", str(folder / "one"))
    assert code == 0, err
    said = commands.run_ranks(
        "sectow_fast.train", *SMALL, "--out", folder / "two", "--plain", timeout=240
    )
    return folder, "".join(out for out, _ in said)


def test_two_ranks_write_one_run_with_the_same_steps(both):
    folder, out = both
    assert out.count("report.html") == 1  # one of them speaks
    one, two = rows(folder / "one"), rows(folder / "two")
    assert [(r["phase"], r["step"]) for r in one] == [(r["phase"], r["step"]) for r in two]
    for mine, theirs in zip(one, two, strict=True):
        # The cold start shows it within float error; later AdamW has made whole steps of gradients
        # that are rounding and nothing else.
        tolerance = 1e-4 if mine["phase"] == "coldstart-caption" else 0.05
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=tolerance, abs=1e-3)
    summary = json.loads((folder / "two" / "summary.json").read_text())
    assert [row["round"] for row in summary["rounds"]] == [0, 1, 2]
    assert {row["leak"]["attacks"] for row in summary["rounds"]} == {60}


def test_what_two_ranks_save_is_whole(both):
    from transformers import AutoModelForImageTextToText

    folder, _ = both
    one, two = (
        AutoModelForImageTextToText.from_pretrained(folder / name / "coldstart" / "defender")
        for name in ("one", "two")
    )
    for (name, mine), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        assert mine.shape == theirs.shape, name
    # Both players of the end, against the shards of the last checkpoint.
    saved = checkpoint.load(folder / "two" / "checkpoints")
    for role in ("defender", "attacker"):
        final = AutoModelForImageTextToText.from_pretrained(folder / "two" / role).state_dict()
        shards = {name: torch.zeros_like(value) for name, value in final.items()}
        saved.fill(role, shards)
        for name, value in final.items():
            assert torch.equal(value, shards[name]), (role, name)


def test_a_run_of_two_stopped_and_killed_goes_on_as_one(tmp_path):
    folder = tmp_path / "run"
    process = start_two(*SMALL, "--out", str(folder), "--plain")
    wait_for(folder, 6, process)
    # As in a terminal. The ranks are in sessions of their own, and torchrun passes it on to them.
    os.killpg(process.pid, signal.SIGINT)
    _, err = ended(process)
    assert err.count(f"stopped; go on with: python -m sectow_fast.train --resume {folder}") == 1
    assert "stopped at once" not in err
    saved = checkpoint.load(folder / "checkpoints")
    # Nothing was lost: the checkpoint is of the step after which both stopped.
    assert saved.state["metrics_bytes"] == (folder / "metrics.jsonl").stat().st_size
    process = start_two("--resume", str(folder), "--plain")
    wait_for(folder, 14, process)
    children = psutil.Process(process.pid).children()
    (second,) = (one for one in children if one.environ().get("RANK") == "1")
    second.kill()
    _, err = ended(process, timeout=60)
    assert err.count("error: rank 1 ended without a word") == 1
    code, _, err = run("--resume", str(folder))
    assert code == 0, err
    assert len(json.loads((folder / "summary.json").read_text())["rounds"]) == 3


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--learn.attention", "flex", "error: learn.attention flex: found a CPU"),
        # This one the first rank finds alone, before the ranks meet.
        ("--attack.loss.ratio", "typo", "error: attack.loss.ratio: found 'typo'"),
    ],
)
def test_a_mistake_is_said_once(tmp_path, flag, value, words):
    arguments = (flag, value, "--out", tmp_path / "run")
    ranks = commands.start_ranks("sectow_fast.train", *arguments)
    said = "".join(rank.communicate(timeout=60)[1] for rank in ranks)
    assert [rank.poll() for rank in ranks] == [2, 2], said
    assert said.count("error: ") == said.count(words) == 1, said
