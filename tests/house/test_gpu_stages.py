"""What each stage of `make gpu-check` reads, judges and says where something is missing."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import shutil
import sys
import weakref

import pytest
import torch

from bench.gpu_check import (
    stage_correct,
    stage_engine,
    stage_kernels,
    stage_round,
    stage_rows,
    stage_trl,
)
from bench.gpu_check.check import Check, Failed
from bench.gpu_check.device import Device
from bench.gpu_check.qwen import THREE_B, byte_tokenizer
from bench.gpu_check.stages import BY_NAME
from sectow_fast.engine.kinds import EngineKind, EnginePerModel
from sectow_fast.engine.torch_engine import TorchEngine

GONE = "no such peer"


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """As in a stage: what was imported need not be looked through for garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def check(tmp_path):
    return Check(rehearse=True, results=tmp_path, scratch=tmp_path)


def test_counts_of_a_junit_file(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure/></testcase>"
        "<testcase name='c'><skipped/></testcase><testcase name='d'><error/></testcase>"
        "</testsuite></testsuites>"
    )
    counts = {"passed": 1, "failed": 2, "skipped": 1}
    assert stage_correct.counted(report) == (counts, ["b", "d"])
    assert "tests/kernels/test_gpu.py" in stage_correct.files()


def test_what_went_wrong_in_the_tests_of_a_card_is_said(check, monkeypatch):
    report = check.scratch / "gpu-tests.xml"
    case = "<testcase name='{}'>{}</testcase>"
    fine, bad = case.format("a", "<skipped/>"), case.format("b", "<failure/>")

    def outcome(cases, code, sanitized):
        def forked(module, arguments):
            assert module == "pytest" and f"--junitxml={report}" in arguments
            if cases is not None:
                report.write_text(f"<testsuite>{cases}</testsuite>")
            return code

        monkeypatch.setattr(stage_correct, "forked", forked)
        row = {"name": "sanitized", "failed": sanitized}
        monkeypatch.setattr(stage_correct, "_sanitized", lambda check: row)
        return list(stage_correct.run(check))

    for cases, code, sanitized, words in (
        (None, -11, 0, "pytest ended with -11 and without a report"),
        (fine + bad, 1, 0, "^1 tests failed, the first is b; correct.log has the words"),
        (fine, 3, 0, "^pytest ended with 3; correct.log"),
        ("", 5, 1, "^pytest ended with 5; no test was skipped; compute-sanitizer failed the row"),
        (fine, 0, 1, "^compute-sanitizer failed the row kernels; correct.log"),
    ):
        with pytest.raises(Failed, match=words):
            outcome(cases, code, sanitized)
        report.unlink(missing_ok=True)
    assert len(outcome(fine, 0, 0)) == 2
    monkeypatch.setattr(stage_correct.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Failed, match="found no pytest"):
        outcome(fine, 0, 0)


@pytest.mark.parametrize("code", [0, 9])
def test_the_row_kernels_are_run_by_the_sanitizer(check, monkeypatch, tmp_path, code):
    tool = tmp_path / stage_correct.SANITIZER[0]
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/given\nexit {code}\n')
    tool.chmod(0o755)
    card = dataclasses.replace(check, rehearse=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "not on the path" in stage_correct._sanitized(card)["absent"]
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stage_correct._sanitized(card)["failed"] == (code != 0)
    given = (tmp_path / "given").read_text()
    assert given.endswith(f"{sys.executable} -m bench.gpu_check.row_kernels cuda\n")


def test_a_peer_may_be_missing_and_ours_may_not(check, monkeypatch):
    def missing():
        raise ImportError(GONE)

    monkeypatch.setitem(stage_kernels.CONTENDERS, "torch.compile", missing)
    names = ["torch.compile", "linear_policy_loss"]
    shape = check.sizes.heads[0]
    rows = list(stage_kernels._heads(check, shape, "none", names))
    assert rows[0]["absent"] == f"ImportError: {GONE}" and "seconds" in rows[1]
    monkeypatch.setitem(stage_kernels.CONTENDERS, "linear_policy_loss", missing)
    with pytest.raises(ImportError, match=GONE):
        list(stage_kernels._heads(check, shape, "none", names))


def test_ours_is_measured_where_trl_has_no_room(check, monkeypatch):
    def full(*arguments):
        raise check.device.api.OutOfMemoryError("no room")

    monkeypatch.setattr(stage_trl, "trl_update", full)
    theirs, ours = stage_trl.run(check)
    assert theirs == {"name": "TRL", "absent": "MemoryError: no room"}
    assert ours["name"] == "ours" and set(BY_NAME["trl"].columns) <= set(ours)


# ---- what is judged


def test_a_gradient_of_ours_that_is_not_plain_torchs_fails():
    row = {"name": "linear_policy_loss", "shape": [1, 2, 3], "dead half": "none"}
    near, peer = row | {"cosine": 0.9991}, row | {"name": "a peer", "cosine": 0.5}
    assert stage_kernels.faults([near, peer]) == []
    for far in (row, row | {"cosine": 0.9989}, row | {"cosine": float("nan")}):
        assert "linear_policy_loss" in stage_kernels.faults([near, far, peer])[0]


def test_a_push_that_reaches_no_engine_fails(check, monkeypatch):
    class Deaf(TorchEngine):
        """It has a copy of the weights, which no push changes."""

        def __init__(self, model, codec):
            super().__init__(copy.deepcopy(model), codec)

        def sync(self, model):
            pass

    def make(setup):
        setup.write_folder(setup.folder)
        return EnginePerModel(Deaf, setup)

    monkeypatch.setattr(stage_engine, "engine_kind", lambda config: EngineKind(make=make))
    with pytest.raises(Failed, match=r"^log-probs, after the push: found a mean of") as raised:
        list(stage_engine.run(check))
    assert stage_engine.STARTED not in str(raised.value)
    # An engine is started from a description, and is sent the weights.
    written = {path.name for path in (check.scratch / "engine").rglob("*")}
    assert {"config.json", "tokenizer.json", "preprocessor_config.json"} <= written
    assert not any(name.endswith(".safetensors") for name in written)
    config = json.loads((check.scratch / "engine" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]


def test_log_probs_and_memory_of_an_engine_have_bounds():
    fine = {"name": stage_engine.PUSHED, "mean": 0.1, "p99": 0.5}
    stale = {"name": "log-probs, old draws under changed weights", "mean": 9.0, "p99": 9.0}
    again = {"name": "20 rounds in a row", "growth_mib": 64.0}
    assert stage_engine.faults([fine, stale, again], "bfloat16") == []
    for wrong in (
        fine | {"p99": 0.51},
        fine | {"mean": 0.11},
        fine | {"mean": float("nan")},
        fine | {"name": stage_engine.STARTED, "p99": 0.51},
        again | {"growth_mib": 64.1},
    ):
        assert len(stage_engine.faults([fine, wrong], "bfloat16")) == 1
    assert len(stage_engine.faults([fine], "float32")) == 1


def test_without_padded_rows_no_gap_is_told(check, monkeypatch):
    made = stage_rows.Update

    def update(scene, name, *, backend):
        if name == "padded":
            raise RuntimeError("no padded rows")
        return made(scene, name, backend=backend)

    monkeypatch.setattr(stage_rows, "Update", update)
    monkeypatch.setattr(stage_rows, "BACKENDS", ())
    rows = []
    with pytest.raises(Failed, match=r"^padded, sdpa: RuntimeError: no padded rows; unshared"):
        for row in stage_rows.run(check):
            rows.append(row)
    assert [row["name"] for row in rows] == ["padded, sdpa", "unshared, auto", "shared, auto"]
    assert not any("gradient gap" in row for row in rows)


def test_another_update_than_that_of_padded_rows_fails():
    row = {"name": "shared, flex", "group": 8, "seconds": 1.0}
    for dtype, most in stage_rows.SAME.items():
        for gap, faults in ((most, 0), (1.1 * most, 1), (float("nan"), 1)):
            assert len(stage_rows.faults([row | {"gradient gap": gap}], dtype)) == faults
    assert len(stage_rows.faults([row], "bfloat16")) == 1
    assert stage_rows.faults([{"name": "a", "group": 8, "absent": "no package"}], "bfloat16") == []


def test_what_lies_in_a_cycle_is_given_back():
    class Model:
        """Held by nothing but itself."""

    one = Model()
    one.itself, held = one, weakref.ref(one)
    gc.disable()
    try:
        del one
        assert held() is not None
        Device.of(rehearse=True).empty()
        assert held() is None
    finally:
        gc.enable()


# ---- the round


def test_a_round_that_ended_badly_is_told_by_its_exit_code(check, monkeypatch):
    assert stage_round._train(check, ["--preset", "none"]) == 2
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert stage_round._train(dataclasses.replace(check, rehearse=False), []) == 1
    monkeypatch.setattr(stage_round, "_train", lambda check, arguments: 3)
    with pytest.raises(Failed, match=r"sectow_fast\.train ended with 3, expected 0; round\.log"):
        list(stage_round.run(check))


def test_model_flops_utilisation_of_a_round():
    weights = stage_round.decoder_weights(THREE_B)
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(THREE_B.config(byte_tokenizer()))
    parts = [*model.model.language_model.modules(), model.lm_head]
    assert weights == sum(p.weight.numel() for p in parts if isinstance(p, torch.nn.Linear))
    assert sum(p.numel() for p in model.parameters()) == 3_754_622_976
    step = {
        "phase": "attack",
        "seconds": {"rollout": 1.0, "train": 3.0},
        "tokens_trained": 1000,
        "mismatch_kl": 1e-4,
    }
    first = step | {"seconds": {"rollout": 100.0, "train": 100.0}, "mismatch_kl": 1.0}
    dead = step | {"phase": "defend", "tokens_trained": 0, "mismatch_kl": 0.0}
    found = stage_round.phases([first, step, step, dead, dead], shape=THREE_B, ceiling=7e14)
    row = next(found)
    assert (row["steps"], row["trained"], row["mismatch_kl"]) == (2, 2, 1e-4)
    assert (row["rollout_s"], row["train_s"]) == (1.0, 3.0)
    assert row["mfu"] == pytest.approx(6 * weights * 1000 / 3 / 7e14, rel=1e-3)
    assert row["tokens/s"] == 250
    assert next(found)["trained"] == 0
    with pytest.raises(Failed, match="none of which trained"):
        next(found)
