"""`make gpu-check`: rehearsed as it runs on a card, and what it does when a stage goes wrong."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu_check import (
    ROOT,
    machine,
    results,
    runner,
    stage_correct,
    stage_kernels,
    stage_round,
    table,
)
from bench.gpu_check import __main__ as command
from bench.gpu_check.check import CARD, Check, Failed, Stage
from bench.gpu_check.device import CpuApi
from bench.gpu_check.machine import Card
from bench.gpu_check.qwen import THREE_B, byte_tokenizer
from bench.gpu_check.stages import STAGES
from sectow_fast.engine.memory import KNOWN

# What a CPU has not; everything else must give a figure.
ABSENT = {
    *("shared, flex", "shared, flash", "shared, xformers"),
    *("verl linear cross entropy", "cut-cross-entropy"),
}
GONE = "no such peer"


def test_rehearsal(tmp_path):
    """Every stage at toy sizes, by the code that runs on a card."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check", "--rehearse", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    logs = "".join(path.read_text()[-1500:] for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    for stage in STAGES:
        found = results.read(tmp_path, stage.name)
        assert found["state"] == "finished" and found["rehearsal"] is True, stage.name
        assert found["card"].startswith("rehearsal on ") and found["code"] and found["versions"]
        assert found["rows"] and not any(row.get("failed") for row in found["rows"])
        assert {row["name"] for row in found["rows"] if "absent" in row} <= ABSENT
        shown = {name for row in found["rows"] for name in row}
        assert shown & set(stage.columns), stage.name
        assert f"REHEARSAL, no figures: {stage.name}" in done.stdout
    rows = {name: results.rows_of(tmp_path, name) for name in ("correct", "kernels", "rows")}
    assert rows["correct"][0]["skipped"] > 100
    assert min(row.get("cosine", 1.0) for row in rows["kernels"]) > 0.999
    assert max(row.get("gradient gap", 0.0) for row in rows["rows"]) < 1e-5
    # Another gradient than that of the padded rows: nothing was compared with itself alone.
    assert any(row.get("gradient gap") for row in rows["rows"])
    engine = results.rows_of(tmp_path, "engine")
    before, stale, after = (row for row in engine if "p99" in row)
    assert before["p99"] < 1e-5 < 1e-3 < stale["p99"] and after["p99"] < 1e-5
    assert all(row["trained"] == 2 for row in results.rows_of(tmp_path, "round"))


def test_all_limits_together_are_25_minutes():
    assert sum(stage.limit for stage in STAGES) <= 25 * 60


def test_the_twin_has_what_torch_cuda_has():
    for name in vars(CpuApi):
        assert name.startswith("__") or hasattr(torch.cuda, name), name


# ---- the runner. Stages of a test must be importable by their name in another process.


def good(check):
    yield {"name": "one"}
    yield {"name": "two"}


def raises(check):
    yield {"name": "one"}
    raise Failed("it is wrong")


def dies(check):
    yield {"name": "one"}
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(check):
    child = subprocess.Popen(["sleep", "600"])
    yield {"name": "child", "pid": child.pid}
    time.sleep(600)


def leaves(check):
    child = subprocess.Popen(["sleep", "600"])
    yield {"name": "child", "pid": child.pid}


def stage(run, limit=60):
    return Stage(name=run.__name__, what="a test", limit=limit, run=run, columns=())


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has reaped yet has."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def run(tmp_path):
    check = Check(rehearse=True, results=tmp_path, scratch=tmp_path)
    return runner.Run(check=check, card=Card(name="a card", driver="1"), code="abc")


def play(run, *stages):
    said: list[str] = []
    return runner.run_all(run, stages, said.append), said


def test_a_stage_that_goes_wrong_stops_no_other(run):
    order = [stage(raises), stage(dies), stage(hangs, limit=10), stage(leaves), stage(good)]
    states, _ = play(run, *order)
    assert states == {
        "raises": "failed",
        "dies": "died",
        "hangs": "timed out",
        "leaves": "finished",
        "good": "finished",
    }
    found = {name: results.read(run.check.results, name) for name in states}
    assert [len(one["rows"]) for one in found.values()] == [1, 1, 1, 1, 2]
    assert found["raises"]["why"] == "Failed: it is wrong"
    assert "-9" in found["dies"]["why"] and found["hangs"]["why"]
    assert "Traceback" in (run.check.results / "raises.log").read_text()
    for name in ("hangs", "leaves"):
        assert gone(found[name]["rows"][0]["pid"]), "a stage's children end with it"


def test_what_is_finished_is_skipped_for_the_same_code_and_card(run):
    assert play(run, stage(good), stage(raises))[0] == {"good": "finished", "raises": "failed"}
    states, said = play(run, stage(good), stage(raises))
    assert states == {"good": "skipped", "raises": "failed"} and "--again" in said[0]
    for other in (
        dataclasses.replace(run, code="abd"),
        dataclasses.replace(run, card=Card(name="another card")),
        dataclasses.replace(run, again=True),
    ):
        assert play(other, stage(good))[0] == {"good": "finished"}


# ---- where results go, and what is refused


def test_a_rehearsal_is_never_kept_beside_a_cards_results(capsys, tmp_path):
    for folder in (results.KEPT, results.KEPT.parent, results.KEPT / "a" / "b"):
        assert command.main(["--rehearse", "--out", str(folder)]) == 2
        assert "expected a folder outside" in capsys.readouterr().err
        assert not (folder / "names.json").exists()
    link = tmp_path / "link"
    link.symlink_to(results.KEPT.parent)
    assert results.is_kept(link / "gpu") and not results.is_kept(tmp_path)


def test_bad_arguments_are_one_line(capsys, monkeypatch):
    assert command.main(["--rehearse", "--stages", "nmaes"]) == 2
    assert "found 'nmaes', expected names, correct" in capsys.readouterr().err
    monkeypatch.setattr(machine, "card", lambda: None)
    assert command.main([]) == 2
    assert "REHEARSE=1" in capsys.readouterr().err


def test_make_gpu_refuses_in_one_line(tmp_path):
    tool = tmp_path / "smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.95'\necho 'NVIDIA H100, 1'\n")
    tool.chmod(0o755)
    card = machine.card([str(tool)])
    assert card == Card(name="NVIDIA H100 80GB HBM3", driver="580.95")
    assert card.folder == "nvidia-h100-80gb-hbm3"
    assert machine.card([str(tmp_path / "none")]) is None
    assert machine.card(["true"]) is None and machine.card(["false"]) is None
    right = {"python": (3, 12), "system": "Linux x86_64", "card": card}
    assert machine.refusal(**right) is None
    for wrong, word in (
        ({"python": (3, 13)}, "Python 3.13"),
        ({"system": "Darwin arm64"}, "Darwin arm64"),
        ({"card": None}, "no CUDA card"),
    ):
        why = machine.refusal(**(right | wrong))
        assert word in why and "expected" in why and "\n" not in why


def test_make_gpu_builds_nothing_without_a_card(tmp_path):
    empty = os.environ | {"PATH": "/usr/bin:/bin"}
    out = tmp_path / "venv"
    done = subprocess.run(
        ["make", "gpu", f"GPU_VENV={out}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env=empty,
        capture_output=True,
        text=True,
    )
    if machine.card() is None:
        assert done.returncode == 2 and "make gpu: found" in done.stderr and not out.exists()


def test_constraints_are_those_of_the_extra():
    """SGLang's and TRL's versions are named in two files."""
    lines = (ROOT / "constraints-gpu.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert f'"sglang=={pinned["sglang"]}"' in (ROOT / "pyproject.toml").read_text()
    assert f'"trl=={pinned["trl"]}"' in (ROOT / "pyproject.toml").read_text()
    assert {"torch", "triton", "transformers", "sglang-kernel"} <= set(pinned)


# ---- what the stages read


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


def test_a_peer_may_be_missing_and_ours_may_not(tmp_path, monkeypatch):
    def missing():
        raise ImportError(GONE)

    check = Check(rehearse=True, results=tmp_path, scratch=tmp_path)
    monkeypatch.setitem(stage_kernels.CONTENDERS, "torch.compile", missing)
    names = ["torch.compile", "linear_policy_loss"]
    shape = check.sizes.heads[0]
    rows = list(stage_kernels._heads(check, shape, "none", names))
    assert rows[0]["absent"] == f"ImportError: {GONE}" and "seconds" in rows[1]
    monkeypatch.setitem(stage_kernels.CONTENDERS, "linear_policy_loss", missing)
    with pytest.raises(ImportError, match=GONE):
        list(stage_kernels._heads(check, shape, "none", names))


def test_model_flops_utilisation_of_a_round():
    weights = stage_round.decoder_weights(THREE_B)
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(THREE_B.config(byte_tokenizer()))
    parts = [*model.model.language_model.modules(), model.lm_head]
    assert weights == sum(p.weight.numel() for p in parts if isinstance(p, torch.nn.Linear))
    assert sum(p.numel() for p in model.parameters()) == KNOWN["qwen2.5-vl-3b"].parameters
    step = {
        "phase": "attack",
        "seconds": {"rollout": 1.0, "train": 3.0},
        "tokens_trained": 1000,
        "mismatch_kl": 1e-4,
    }
    rows = [step, step | {"phase": "defend", "tokens_trained": 0, "mismatch_kl": 0.0}]
    found = stage_round.phases(rows, shape=THREE_B, ceiling=7e14)
    first = next(found)
    assert first["mfu"] == pytest.approx(6 * weights * 1000 / 3 / 7e14, rel=1e-3)
    assert first["tokens/s"] == 250
    assert next(found)["trained"] == 0
    with pytest.raises(Failed, match="none of which trained"):
        next(found)


def test_the_card_is_asked_for_the_issues_shapes():
    assert CARD.heads == ((16_384, 2048, 151_936), (16_384, 3584, 151_936))
    assert CARD.edge**2 == 1024 and (CARD.prompt, CARD.completion) == (1200, 512)
    assert CARD.groups == (8, 16) and CARD.syncs == 20 and CARD.rewards[-1] == CARD.loss


def test_table_says_why_a_row_has_no_figure():
    assert table.cells({"name": "a", "absent": "no"}, ["seconds"]) == ["a (absent: no)", ""]
    assert table.cells({"name": "a", "failed": "bad"}, []) == ["a (failed: bad)"]
    assert table.cells({"name": "a", "x": 0.123456, "y": 3}, ["x", "y"]) == ["a", "0.1235", "3"]
