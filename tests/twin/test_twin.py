"""The trainer on the twin of a card: nothing on the wrong device, bounded launches and bytes.

One child process runs everything, since the card's guard must be loaded before torch is.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tables import FAMILIES, built, driven, said, waits

HERE = Path(__file__).parent
STEPS = ("grpo", "sft", "selftest", "push", "save_and_load", "generation")
# Two at once, of which neither trips the other's gate.
FAULTS = ("cpu_tensor,launches", "item_per_row,memory")
# Launches and peak bytes of a step on the card (docs/TRAINING.md). More is a loss to be explained.
TABLE = json.loads((HERE / "table.json").read_text())
SLACK = 1.02  # another version of transformers or torch may add an operation here and there


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    """The compiled guard.cpp."""
    import twin

    absent = twin.missing()
    if absent:
        pytest.skip(f"twin: found no {absent[0]} in torch {torch.__version__}")
    if torch.version.cuda is not None:
        pytest.skip("twin: found a torch built for CUDA, expected a CPU build without a guard")
    return built(tmp_path_factory.mktemp("twin"))


@pytest.fixture(scope="session")
def found(guard):
    """job -> step -> what it met; see driver.py."""
    return said(driven(guard, *FAMILIES, *(f"qwen2:{fault}" for fault in FAULTS)))


@pytest.fixture(scope="session")
def two(guard, tmp_path_factory):
    """The same of the presets, for each of two ranks."""
    meet = str(tmp_path_factory.mktemp("ranks") / "meet")
    started = [driven(guard, "--meet", meet, "--rank", rank) for rank in "01"]
    return [said(one) for one in started]


def over(met: dict, name: str, what: str, step: str = "grpo") -> bool:
    return met[what] > TABLE[name][step][what] * SLACK


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("step", STEPS)
def test_everything_stays_on_the_card(found, name, step):
    met = found[name][step]
    assert "error" not in met, met["error"]
    assert not met["mismatches"]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_steps_give(found, name):
    met = {step: found[name][step]["metrics"] for step in STEPS}
    for step in ("grpo", "sft"):
        assert found[name][step]["rows"] > 1 and not met[step]["skipped"]
        assert 0 < met[step]["grad_norm"] < 100 and 0 < met[step]["loss"] < 10
    assert met["push"]["same"] == met["save_and_load"]["same"] == 1
    assert met["push"]["buckets"] > 1 and met["save_and_load"]["tensors"] > 20
    assert met["generation"]["tokens"] > 4


def allowed(met: dict, products: int = 1) -> int:
    """One per micro-batch and pass over the head (which rows are live), and two per step: the sums
    and the norm."""
    return products * met["rows"] + 2


@pytest.mark.parametrize("name", FAMILIES)
def test_the_host_waits_once_per_micro_batch(found, name):
    met = found[name]["grpo"]
    assert waits(met) <= allowed(met), met["syncs"]
    met = found[name]["sft"]  # whose head has a pass of its own for the gradient
    assert waits(met) <= allowed(met, products=2), met["syncs"]


@pytest.mark.parametrize("name", FAMILIES)
def test_launches_and_bytes_are_bounded(found, name):
    for step in TABLE[name]:
        met = found[name][step]
        assert not over(met, name, "launches", step), met["launches"]
        assert not over(met, name, "peak", step), met["peak"]


def test_each_gate_finds_the_fault_that_is_planted_for_it(found):
    one, other = (found[f"qwen2:{fault}"]["grpo"] for fault in FAULTS)
    assert any("modeling_qwen2" in where for where in one["mismatches"])
    assert over(one, "qwen2", "launches") and not over(one, "qwen2", "peak")
    assert waits(other) > allowed(other) and not other["mismatches"]
    assert over(other, "qwen2", "peak") and not over(other, "qwen2", "launches")


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("preset", ["qwen2.5-vl-3b-1gpu", "qwen2.5-vl-7b-8gpu"])
def test_presets_play_on_one_and_two_ranks(found, two, preset, adapters):
    job = f"{preset} {adapters}"
    one, *ranks = (each[job]["grpo"] for each in (found, *two))
    for met in (one, *ranks):
        assert "error" not in met, met["error"]
        assert not met["mismatches"] and not met["metrics"]["skipped"] and met["rows"] == 2
        assert waits(met) <= allowed(met), met["syncs"]
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    # The two ranks' batch is that of one rank twice, so the mean gradient is the same.
    assert one["metrics"]["grad_norm"] > 1e-4
    assert ranks[0]["metrics"]["grad_norm"] == pytest.approx(one["metrics"]["grad_norm"], rel=3e-2)
    assert all(met["peak"] < one["peak"] for met in ranks)  # each holds a share of the weights


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("preset", ["qwen2.5-vl-3b-1gpu", "qwen2.5-vl-7b-8gpu"])
def test_plan_and_the_cards_peak_agree_within_a_tenth(found, preset, adapters):
    import presets

    from sectow_fast.learn.shapes import training_peak

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # a plan makes a world of its own
    learn, grpo = presets.settings(preset, adapters=adapters)
    plan = training_peak(presets.tiny(preset), learn, grpo, context=presets.CONTEXT)
    planned = plan.masters + plan.optimizer + plan.gradients + plan.work
    assert planned == pytest.approx(found[f"{preset} {adapters}"]["grpo"]["peak"], rel=0.1)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("preset", ["qwen2.5-vl-3b-1gpu", "qwen2.5-vl-7b-8gpu"])
def test_a_probe_finds_what_the_update_takes_and_leaves_nothing(found, two, preset, adapters):
    """What the longest row takes beside what the card holds is the peak of an update."""
    import presets

    job = f"{preset} {adapters}"
    for each in (found, *two):
        probe, met = each[job]["probe"]["found"], each[job]["grpo"]
        assert set(each[job]["probe"]["left"].values()) == {0}
        assert probe["asleep"] - probe["awake"] == presets.Resident.BYTES
        row = probe["row"] + probe["slope"] * (probe["most"] - probe["tokens"])
        held = presets.LedgerGauge.ROOM - probe["asleep"]
        assert held >= probe["masters"] > 0
        assert held + probe["optimizer"] + row == pytest.approx(met["peak"], rel=0.1)
    alone = found[job]["probe"]["found"]
    assert all(each[job]["probe"]["found"]["masters"] < alone["masters"] for each in two)
