"""Whole runs through the real command: what is written, resumed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import commands
import pytest
from commands import ROOT, VARIABLES, Command

SMALL = [
    *("--rounds", "2", "--threads", "1", "--save_every", "3"),
    *("--coldstart.caption_steps", "4", "--coldstart.defender_steps", "8"),
    *("--coldstart.attacker_steps", "4", "--coldstart.batch", "16"),
    *("--attack.steps", "5", "--attack.prompts", "4", "--attack.group_size", "4"),
    *("--defend.steps", "5", "--defend.prompts", "6", "--defend.group_size", "4"),
    *("--harvest.attacks", "12", "--harvest.replies", "1", "--monitor.every", "2"),
    *("--evaluate.attacker_cases", "8", "--evaluate.leak_attacks", "6"),
    *("--evaluate.league_cases", "6"),
    *("--sandbox.suite_size", "8", "--sandbox.picture_variants", "2"),
]


start = partial(commands.start, "sectow_fast.train")
run = partial(commands.run, "sectow_fast.train")


def steps(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(folder: Path, lines: int, process: Command) -> None:
    end = time.monotonic() + 120
    while steps(folder) < lines and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def comparable(folder: Path) -> str:
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("wall_seconds")
    return json.dumps(summary, sort_keys=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "-m", "sectow_fast.train", *SMALL, "--out", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | VARIABLES, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_a_run_leaves_what_the_contract_names(whole):
    for name in ("config.toml", "metrics.jsonl", "summary.json", "report.html", "pool.jsonl"):
        assert (whole / name).is_file(), name
    assert list((whole / "plots").glob("*.png"))
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["schema"] == 1 and [r["round"] for r in summary["rounds"]] == [0, 1, 2]
    for row in summary["rounds"]:
        for kind in ("asr", "orr", "accuracy"):
            for rate in row[kind].values():
                assert set(rate) == {"value", "n", "low", "high", "unknown", "objects"}
        leak = row["leak"]
        assert leak["objects"] == len(leak["worst"]) == 10
        assert leak["attacks"] == 60 and leak["space"] == 2140
        assert set(leak["asr_at"]) == {"1", "10", "100", "1000"} and leak["styles"]
        assert set(row["asr_graded"]) == set(row["asr"]) - {"direct"}
    league = summary["league"]
    assert league["cases"] == 6
    assert list(league["rates"]) == ["self-instruct", "cold start", "round 1", "round 2"]
    for row in league["rates"].values():
        assert list(row) == ["cold start", "round 1", "round 2"]
        assert {rate["n"] for rate in row.values()} == {6}
    assert [path.name for path in (whole / "rounds").iterdir()] == ["1"]
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    defend = [r for r in rows if r.get("phase") == "defend" and "step" in r]
    assert len(defend) == 10
    for name in ("reward", "seconds", "dead_groups", "tokens_per_second", "lr"):
        assert name in defend[0], name
    for row in (r for r in rows if r.get("phase") in ("attack", "defend") and "step" in r):
        # A step whose groups are all dead has no trainer forward to compare with.
        assert row["dead_groups"] == 1 or row["mismatch_kl"] < 1e-6


@pytest.mark.parametrize("role", ["defender", "attacker"])
def test_players_load_by_the_auto_classes(whole, role):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert AutoProcessor.from_pretrained(whole / role).chat_template
    AutoModelForImageTextToText.from_pretrained(whole / role)


@pytest.mark.parametrize("lines", [2, 9, 18, 24, 33])
def test_resume_after_kill_9_gives_the_same_summary(whole, tmp_path, lines):
    folder = tmp_path / "run"
    process = start(*SMALL, "--out", str(folder), "--plain")
    wait_for(folder, lines, process)
    if lines == 9:  # in the middle of a checkpoint, which is written beside the training
        while not list(folder.glob("checkpoints/.part-*")) and process.poll() is None:
            time.sleep(0.0005)
    process.kill()
    process.communicate()
    code, _, err = run("--resume", str(folder))
    assert code == 0, err
    assert comparable(folder) == comparable(whole)
    kept = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    full = [json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [(r.get("phase"), r.get("step"), r.get("loss")) for r in kept] == [
        (r.get("phase"), r.get("step"), r.get("loss")) for r in full
    ]


def test_ctrl_c_saves_and_says_how_to_go_on(whole, tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, "--out", str(folder), "--plain")
    wait_for(folder, 14, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and f"--resume {folder}" in err and "Traceback" not in err
    assert run("--resume", str(folder))[0] == 0
    assert comparable(folder) == comparable(whole)


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    long = [
        x if x != "8" or SMALL[i - 1] != "--coldstart.defender_steps" else "5000"
        for i, x in enumerate(SMALL)
    ]
    first = start(*long, "--out", str(folder), "--plain")
    wait_for(folder, 1, first)
    for arguments in (["--resume", str(folder)], [*SMALL, "--out", str(folder)]):
        code, _, err = run(*arguments)
        assert code == 2 and "another run is writing here" in err
    first.kill()
    first.communicate()


def test_a_finished_run_is_not_overwritten(whole):
    before = comparable(whole)
    code, _, err = run(*SMALL, "--out", str(whole))
    assert code == 2 and "found a run" in err and comparable(whole) == before


def test_the_resumed_configuration_is_the_runs_own(whole):
    code, _, err = run("--resume", str(whole), "--attack.steps", "9")
    assert code == 2 and "found other settings" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attak.steps", "3"], "did you mean --attack.steps?"),
        (["--attack.steps", "x"], "attack.steps: found 'x'"),
        (["--attack.lr", "nan"], "attack.lr: found 'nan'"),
        (["--learn.lora_rank", "4"], "learn.lora_rank 4 has no trained model to adapt"),
        (["--learn.offload", "on"], "learn.offload: found on with engine.kind torch"),
        (["--learn.attention", "flash"], "found no package flash_attn"),
        (["--rounds", "-1"], "rounds: found '-1'"),
        (["--ablate", "no-iter"], "ablate: found 'no-iter'"),
        (["--attack.steps"], "--attack.steps: found no value"),
        (["stray"], "'stray': found a bare word"),
        (["--config", "nowhere.toml"], "nowhere.toml: found no such file"),
        (["--preset", "nowhere"], "found no such preset, expected one of: "),
        (["--resume", "/nowhere"], "found no config.toml"),
        (["--engine.kind", "sglang", "--engine.deterministic", "true"], "engine."),
        (["--engine.kind", "vllm"], "engine.kind: found 'vllm'"),
        (["--data.judge", "jury"], "data.judge: found 'jury'"),
        (["--attack.loss.ratio", "tokn"], "attack.loss.ratio: found 'tokn'"),
        (["--attack.clip_low", "0.1"], "did you mean --attack.loss.clip_low?"),
        (["--model.defender", "/nowhere"], "model.defender /nowhere: found no config.json"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, arguments, words):
    out = [] if "--resume" in arguments else ["--out", str(tmp_path / "run")]
    code, _, err = run(*arguments, *out)
    assert code == 2 and words in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[defend]\nstep = 3\n")
    code, _, err = run("--config", str(path), "--out", str(tmp_path / "run"))
    assert code == 2 and "mine.toml" in err and "did you mean defend.steps?" in err
    path.write_text("[defend\n")
    code, _, err = run("--config", str(path), "--out", str(tmp_path / "run"))
    assert code == 2 and "mine.toml: found no valid TOML" in err


def test_an_unwritable_output_is_refused():
    code, _, err = run("--out", "/proc/nowhere/run")
    assert code == 2 and "cannot write there" in err and "Traceback" not in err


def test_a_model_without_a_chat_template_is_refused(whole, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(whole / "defender", folder)
    (folder / "chat_template.jinja").unlink()
    code, _, err = run("--model.defender", str(folder), "--out", str(tmp_path / "run"))
    assert code == 2 and "found no chat template" in err and not (tmp_path / "run").exists()


def test_a_model_of_another_world_is_refused(whole, tmp_path):
    arguments = ["--model.defender", str(whole / "defender"), "--seed", "7"]
    code, _, err = run(*arguments, "--out", str(tmp_path / "run"))
    assert code == 2 and "vocabulary of another world" in err


def test_dry_run_plans_and_writes_nothing(tmp_path):
    code, out, _ = run(*SMALL, "--dry-run", "--out", str(tmp_path / "run"))
    assert code == 0 and "Nothing was written" in out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["qwen2.5-vl-3b-1gpu", "qwen2.5-vl-7b-8gpu"])
def test_a_preset_for_gpus_plans_its_memory_and_names_a_missing_model(preset, tmp_path):
    if preset == "qwen2.5-vl-3b-1gpu":  # one is enough: it takes most of a minute
        code, out, err = run("--preset", preset, "--dry-run")
        assert code == 0, err
        for words in (
            "rollout",
            "train",
            "sync",
            "engine cache",
            "optimizer",
            "Nothing was written",
        ):
            assert words in out, words
    played = ["--preset", preset, "--engine.kind", "torch", "--out", str(tmp_path / "run")]
    code, _, err = run(*played)
    assert code == 2 and "found no config.json" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
