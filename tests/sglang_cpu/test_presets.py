"""The presets for GPUs, played on a CPU: same class, published layouts, a tiny random model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang")
sys.path.append(str(Path(__file__).parents[1] / "evaluate"))

import commands
import layouts
from tiny_models import save_qwen2_5_vl

STEPS = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("real")
    for name in ("jailbreakv", "vlguard", "or-bench", "xstest"):
        layouts.WRITERS[name](base / name)
    save_qwen2_5_vl(base / "qwen", taught=True)
    return base


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("qwen2.5-vl-3b-1gpu", ["--learn.offload", "on"]),
        (
            "qwen2.5-vl-7b-8gpu",
            ["--learn.lora_rank", "4", "--learn.gradient_checkpointing", "false"],
        ),
    ],
)
def test_a_round_of_each_preset(folders, tmp_path, preset, more):
    out = tmp_path / "run"
    command = ["--preset", preset, "--plain"]
    command += ["--model.defender", str(folders / "qwen"), "--out", str(out), "--threads", "1"]
    # What a CPU and a tiny model need; everything else is the preset's.
    command += ["--engine.device", "cpu", "--engine.dtype", "float32", "--engine.roles", "swap"]
    command += ["--engine.context_length", "1024", "--learn.dtype", "float32"]
    command += ["--engine.logprob_tolerance", "1e-3", "--rounds", "1"]
    command += [
        "--data.unsafe",
        f"jailbreakv={folders / 'jailbreakv'},vlguard={folders / 'vlguard'}",
    ]
    command += ["--data.harmless", f"or-bench:80k={folders / 'or-bench'}"]
    command += ["--data.test", f"xstest={folders / 'xstest'}"]
    command += ["--data.judge", "rule-knowingly"]
    command += ["--coldstart.attacker_steps", "2", "--coldstart.batch", "4"]
    command += ["--attack.steps", "1", "--attack.prompts", "2", "--attack.max_new_tokens", "8"]
    command += ["--harvest.attacks", "8", "--evaluate.attacker_cases", "4"]
    command += [
        "--defend.steps",
        str(STEPS),
        "--defend.prompts",
        "8",
        "--defend.max_new_tokens",
        "8",
    ]
    # An update that moves the weights so far that a push that missed it would be seen.
    command += ["--defend.lr", "3e-3", "--defend.warmup", "0", *more]
    code, written, errors = commands.run("sectow_fast.train", *command)
    assert code == 0, written[-2000:] + errors[-3000:]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row.get("phase") == "defend" and "tokens_trained" in row]
    assert len(steps) == STEPS and not any(row["skipped"] for row in steps)
    # A random model's replies are often all alike, and then a step has nothing to teach.
    trained = [row for row in steps if row["tokens_trained"]]
    assert len(trained) >= 2 and any(row["grad_norm"] > 0 for row in trained[:-1])
    assert all(row["mismatch_kl"] < 1e-4 for row in trained)
    assert json.loads((out / "summary.json").read_text())["rounds"][-1]["round"] == 1
