"""Whole runs on suites in the published layouts, through the command."""

from __future__ import annotations

import json
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import commands
import pytest
from real_data import data, named
from tiny_others import OTHERS

from sectow_fast.data.asked import TrainedOn
from sectow_fast.data.processor import load_processor

ROOT = Path(__file__).parents[2]


def arguments(folders, qwen, *more, harmless=("or-bench:80k", "mmmu")) -> list[str]:
    config = data(folders, harmless=named(folders, *harmless))
    return [
        *("--preset", "real", "--data.judge", "rule-knowingly", "--model.defender", str(qwen)),
        *("--rounds", "1", "--threads", "1"),
        *("--data.unsafe", ",".join(config.unsafe), "--data.harmless", ",".join(config.harmless)),
        *("--data.test", ",".join(config.test), "--save_every", "1"),
        *("--coldstart.attacker_steps", "3", "--coldstart.batch", "4"),
        *("--attack.steps", "2", "--attack.prompts", "2", "--attack.group_size", "4"),
        *("--attack.max_new_tokens", "16", "--harvest.attacks", "8", "--harvest.replies", "1"),
        *("--defend.steps", "8", "--defend.prompts", "8", "--defend.group_size", "8"),
        *("--defend.max_new_tokens", "8", "--monitor.every", "4", "--defend.lr", "3e-3"),
        *("--evaluate.attacker_cases", "8", *more),
    ]


start = partial(commands.start, "sectow_fast.train")


def test_a_whole_run_on_a_tiny_qwen_and_resumed_after_kill_9(folders, qwen, tmp_path):
    out = tmp_path / "run"
    process = start(*arguments(folders, qwen, "--out", out, "--plain"))
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert "left out of training" in stdout and "training on" in stdout
    summary = json.loads((out / "summary.json").read_text())
    assert [row["round"] for row in summary["rounds"]] == [0, 1]
    last = summary["rounds"][1]
    assert set(last["asr"]) == {"figstep", "xstest-unsafe", "mean"}
    assert set(last["orr"]) == {"xstest-harmless", "mossbench", "mmmu-pro", "mean"}
    assert set(last["accuracy"]) == {"mmmu-pro", "mean"}
    assert summary["versions"]["judge"] == "rule"
    assert (summary["judged"]["by"], summary["judged"]["attacks"]) == ("rule", "not refused")
    assert "round 1/1: not refused " in stdout and "judged by rule; agrees with people" in stdout
    assert "ASR" not in stdout and "Mean ASR" not in (out / "report.html").read_text()
    rewards = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rewards = [row for row in rewards if row.get("phase") == "defend" and "reward" in row]
    assert len(rewards) == 8 and any(row["dead_groups"] < 1 for row in rewards)
    before = (qwen / "model.safetensors").read_bytes()
    assert (out / "defender" / "model.safetensors").read_bytes() != before
    taught = TrainedOn.read(out / "defender")
    assert {"vlguard", "or-bench", "mmmu"} <= set(taught.suites) and taught.asked
    assert TrainedOn.read(out / "coldstart" / "defender") is None
    assert "bado" not in (out / "report.html").read_text().split("config.toml")[0]

    from transformers import AutoModelForImageTextToText

    for role in ("defender", "attacker"):
        AutoModelForImageTextToText.from_pretrained(out / role)
        assert load_processor(out / role).chat_template

    again = tmp_path / "again"
    process = start(*arguments(folders, qwen, "--out", again, "--plain"))
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        path = again / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= 7:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start("--resume", again)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    resumed = json.loads((again / "summary.json").read_text())
    for one in (summary, resumed):
        one.pop("wall_seconds")
    assert resumed == summary


@pytest.mark.parametrize("more", [["--defender", "sft"], ["--dry-run"]])
def test_the_baseline_and_the_plan(folders, qwen, tmp_path, more):
    # VLGuard has replies to its harmless requests, which the SFT baseline teaches.
    words = arguments(folders, qwen, "--out", tmp_path / "run", *more, harmless=("vlguard",))
    process = start(*words)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert (tmp_path / "run").exists() == ("--dry-run" not in more)
    assert ("Nothing was written" in stdout) == ("--dry-run" in more)


def test_the_baseline_is_refused_where_neither_data_nor_defender_have_replies(
    folders, qwen, tmp_path
):
    process = start(*arguments(folders, qwen, "--out", tmp_path / "run", "--defender", "sft"))
    _, stderr = process.communicate(timeout=240)
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(lines) == 1 and "Traceback" not in stderr
    assert lines[0].startswith("error: defender sft: found 0 of 5 harmless requests to which the")


def test_a_mistake_is_one_line_and_writes_nothing(folders, qwen, tmp_path):
    shutil.copytree(folders / "jailbreakv", tmp_path / "jailbreakv")
    for path in (tmp_path / "jailbreakv" / "llm_transfer_attack").glob("blank_1?.png"):
        path.unlink()
    words = arguments(folders, qwen, "--out", tmp_path / "run")
    words[words.index("--data.unsafe") + 1] = f"jailbreakv={tmp_path / 'jailbreakv'}"
    process = start(*words)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2 and "found 10 of 20 pictures missing" in stderr
    lines = [line for line in stderr.strip().splitlines() if not line.startswith("[transformers]")]
    assert len(lines) == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["llava"])
def test_other_real_classes_are_trained(folders, tmp_path, kind):
    model = OTHERS[kind](tmp_path / "model")
    out = ("--out", tmp_path / "run", "--defender", "sft")
    words = arguments(folders, model, *out, harmless=("vlguard",))
    process = start(*words, "--defend.prompts", "1", "--defend.group_size", "2")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    kept = [
        (path / "model.safetensors").read_bytes() for path in (model, tmp_path / "run/defender")
    ]
    assert kept[0] != kept[1]
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row.get("phase") == "defend" and "loss" in row]
    assert losses and all(0 < loss < 20 for loss in losses)
