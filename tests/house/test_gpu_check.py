"""`make gpu-check`: rehearsed as it runs on a card, and what it does when a stage goes wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import commands
import pytest
import torch

from bench.gpu_check import (
    ROOT,
    machine,
    results,
    runner,
    stage_correct,
    stage_kernels,
    stage_rows,
    table,
)
from bench.gpu_check import __main__ as command
from bench.gpu_check.check import Check, Failed, Stage
from bench.gpu_check.device import CpuApi
from bench.gpu_check.machine import Card
from bench.gpu_check.stages import STAGES

# What a CPU has not; everything else must give a figure.
ABSENT = {
    *("shared, flex", "shared, flash", "shared, xformers"),
    *("verl linear cross entropy", "cut-cross-entropy"),
}


@pytest.fixture(scope="module", autouse=True)
def _server():
    """The tests' own, which has the libraries: stages are forks of whatever server runs."""
    commands.start_server()


@pytest.fixture
def check(tmp_path):
    return Check(rehearse=True, results=tmp_path, scratch=tmp_path)


def test_rehearsal(capsys, tmp_path):
    """Every stage at toy sizes, by the code that runs on a card."""
    code = command.main(["--rehearse", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    logs = "".join(path.read_text()[-1500:] for path in sorted(tmp_path.glob("*.log")))
    assert code == 0, out + logs
    for stage in STAGES:
        found = results.read(tmp_path, stage.name)
        assert found["state"] == "finished" and found["rehearsal"] is True, stage.name
        assert found["card"].startswith("rehearsal on ") and found["code"] and found["versions"]
        assert found["rows"] and not any(row.get("failed") for row in found["rows"])
        assert {row["name"] for row in found["rows"] if "absent" in row} <= ABSENT
        shown = {name for row in found["rows"] for name in row}
        assert set(stage.columns) <= shown, stage.name
        assert f"REHEARSAL, no figures: {stage.name}" in out
    rows = {stage.name: results.rows_of(tmp_path, stage.name) for stage in STAGES}
    assert rows["names"][0]["count"] > 100 and rows["names"][0]["missing"] == 0
    assert rows["correct"][0]["skipped"] > 100
    heads = [row for row in rows["kernels"] if row["name"] in stage_kernels.OURS]
    assert len(heads) == 6 and all(row["cosine"] > 0.999 for row in heads)
    gaps = [row["gradient gap"] for row in rows["rows"] if "seconds" in row]
    # Another gradient than that of the padded rows: nothing was compared with itself alone.
    assert max(gaps) < 1e-5 and any(gaps)
    before, stale, after = (row for row in rows["engine"] if "p99" in row)
    assert before["p99"] < 1e-5 < 1e-3 < stale["p99"] and after["p99"] < 1e-5
    assert all(row["steps"] == row["trained"] == 2 for row in rows["round"])


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


def sees(check):
    yield {"name": "card", "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


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
def run(check):
    return runner.Run(check=check, card=Card(name="a card", driver="1"), code="abc")


def play(run, *stages):
    said: list[str] = []
    return runner.run_all(run, stages, said.append), said


def test_a_stage_that_goes_wrong_stops_no_other(run):
    order = [stage(raises), stage(dies), stage(hangs, limit=5), stage(leaves), stage(sees)]
    states, _ = play(run, *order)
    assert states == {
        "raises": "failed",
        "dies": "died",
        "hangs": "timed out",
        "leaves": "finished",
        "sees": "finished",
    }
    found = {name: results.read(run.check.results, name) for name in states}
    assert [len(one["rows"]) for one in found.values()] == [1, 1, 1, 1, 1]
    assert found["raises"]["why"] == "Failed: it is wrong"
    assert "-9" in found["dies"]["why"] and found["hangs"]["why"]
    assert found["sees"]["rows"][0]["visible"] == "", "a rehearsal sees no card"
    assert "Traceback" in (run.check.results / "raises.log").read_text()
    for name in ("hangs", "leaves"):
        assert gone(found[name]["rows"][0]["pid"]), "a stage's children end with it"


def test_what_is_finished_is_skipped_under_the_same_conditions(run):
    assert play(run, stage(good))[0] == {"good": "finished"}
    states, said = play(run, stage(good))
    assert states == {"good": "skipped"} and "--again" in said[0]
    attention = dataclasses.replace(run.check, attention="triton")
    for other in (
        dataclasses.replace(run, code="abd"),
        dataclasses.replace(run, card=Card(name="another card", driver="1")),
        dataclasses.replace(run, card=Card(name="a card", driver="2")),
        dataclasses.replace(run, check=attention),
        dataclasses.replace(run, again=True),
    ):
        assert run.is_done(stage(good)) and not other.is_done(stage(good))
    path = run.check.results / "good.json"
    kept = json.loads(path.read_text())
    for changed in (
        {"versions": kept["versions"] | {"torch": "0"}},
        {"versions": {}},
        {"state": "failed"},
        {"state": "running"},
    ):
        path.write_text(json.dumps(kept | changed))
        assert not run.is_done(stage(good)), changed
    assert play(run, stage(good))[0] == {"good": "finished"}
    assert json.loads(path.read_text())["versions"] == kept["versions"]


def test_all_code_that_stages_run_decides_whether_they_are_done():
    import layouts
    import tiny_models

    found = {str(path.relative_to(ROOT)) for path in results.sources()}
    assert {*stage_correct.files(), "tests/conftest.py", "tests/kernels/conftest.py"} <= found
    assert {"csrc/module.cpp", "bench/scene.py", "kernels/loss.py"} <= found
    for module in (layouts, tiny_models, stage_rows):
        assert str(Path(module.__file__).relative_to(ROOT)) in found


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
    right = {"python": (3, 12), "system": "Linux x86_64", "glibc": "2.34", "card": card}
    assert machine.refusal(**right) is None
    for wrong, word in (
        ({"python": (3, 13)}, "Python 3.13"),
        ({"system": "Darwin arm64"}, "Darwin arm64"),
        ({"glibc": "2.31"}, "glibc 2.31"),
        ({"glibc": ""}, "glibc none"),
        ({"card": None}, "no CUDA card"),
    ):
        why = machine.refusal(**(right | wrong))
        assert word in why and "expected" in why and "\n" not in why


def test_make_gpu_builds_nothing_without_a_card(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    out = tmp_path / "venv"
    done = subprocess.run(
        ["make", "gpu", f"GPU_VENV={out}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "make gpu: found" in done.stderr and not out.exists()


def test_constraints_are_those_of_the_extra():
    """Every package of the `gpu` extra is pinned, at the version that the extra names."""
    lines = (ROOT / "constraints-gpu.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, wanted = ["gpu"], list(project["dependencies"])
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            ours = re.fullmatch(r"sectow-fast\[(.*)\]", line)
            waiting += ours[1].split(",") if ours else []
            wanted += [] if ours else [line]
    assert "sglang==0.5.23" in wanted and "transformers>=5.12" in wanted
    for line in wanted:
        name, _, version = line.partition("==")
        name = re.split(r"[<>=;]", name)[0]
        assert name in pinned and version in ("", pinned[name]), line
    assert {"triton", "sglang-kernel"} <= set(pinned)


def test_table_says_why_a_row_has_no_figure():
    assert table.cells({"name": "a", "absent": "no"}, ["seconds"]) == ["a (absent: no)", ""]
    assert table.cells({"name": "a", "failed": "bad"}, []) == ["a (failed: bad)"]
    assert table.cells({"name": "a", "x": 0.123456, "y": 3}, ["x", "y"]) == ["a", "0.1235", "3"]
