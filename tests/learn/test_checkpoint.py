from __future__ import annotations

import concurrent.futures
import contextlib
import resource
import signal
import subprocess
import sys

import pytest
import torch

from sectow_fast.learn import checkpoint
from sectow_fast.learn.optim import cosine_lr_at, lr_at, make_optimizer, moments_of, put_moments
from sectow_fast.types import UserError


def trained(steps):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    optimizer = make_optimizer(model, 1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        one_step(model, optimizer, step)
    return model, optimizer


def save(folder, *, tensors, state):
    """Write a checkpoint and wait for it."""
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(tensors=tensors, state=state)
    checkpoints.wait()


def one_step(model, optimizer, step):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path):
    model, optimizer = trained(3)
    save(
        tmp_path,
        tensors={
            "model": model.state_dict(),
            "optimizer": moments_of(optimizer, model),
        },
        state={"step": 3},
    )
    saved = checkpoint.load(tmp_path)
    assert saved.state == {"step": 3}
    again, fresh = trained(0)
    saved.fill("model", again.state_dict())
    put_moments(fresh, again, saved.moments(again))
    one_step(model, optimizer, 3)
    one_step(again, fresh, 3)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_latest_stays_and_leftovers_of_a_kill_are_cleaned(tmp_path):
    (tmp_path / ".part-000009").mkdir()
    for step in range(3):
        save(tmp_path, tensors={"m": {"x": torch.ones(1) * step}}, state={"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000003", "latest"]
    assert checkpoint.load(tmp_path).state["step"] == 2


def test_a_kill_before_the_pointer_moves_leaves_the_earlier_checkpoint(tmp_path):
    save(tmp_path, tensors={"m": {"x": torch.zeros(1)}}, state={"step": 0})
    (tmp_path / "checkpoint-000002").mkdir()  # renamed, but `latest` was not yet replaced
    assert checkpoint.load(tmp_path).state["step"] == 0
    save(tmp_path, tensors={"m": {"x": torch.zeros(1)}}, state={"step": 1})
    assert checkpoint.load(tmp_path).state["step"] == 1


@pytest.mark.parametrize("name", ["*.safetensors", "state.json"])
@pytest.mark.parametrize("left", [7, 60])
def test_a_truncated_file_is_named(tmp_path, name, left):
    state = {"step": 0, "much": "x" * 99}
    save(tmp_path, tensors={"m": {"x": torch.zeros(99)}}, state=state)
    (file,) = tmp_path.glob(f"checkpoint-*/{name}")
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=file.name):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("into", [{"x": torch.zeros(3)}, {"y": torch.zeros(2)}])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, into):
    save(tmp_path, tensors={"m": {"x": torch.zeros(2)}}, state={})
    with pytest.raises(UserError, match="of m"):
        checkpoint.load(tmp_path).fill("m", into)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    one, tied = torch.zeros(1 << 20), torch.zeros(3)
    scalar = torch.tensor(1.0)
    tensors = {"m": {"one": one, "scalar": scalar}, "n": {"a": tied, "b": tied}}
    checkpoints.save(tensors=tensors, state={"step": 0})
    for value in (one, tied, scalar):
        value += 7  # the next update, in place
    checkpoints.wait()
    into = {"one": torch.ones(1 << 20), "scalar": torch.tensor(0.0)}
    saved = checkpoint.load(tmp_path)
    saved.fill("m", into)
    assert not into["one"].any() and into["scalar"] == 1
    into = {"a": torch.ones(3), "b": torch.ones(3)}
    saved.fill("n", into)
    assert not into["a"].any() and not into["b"].any()


def test_a_large_checkpoint_goes_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 1000)
    tensors = {"m": {str(i): torch.full((100,), float(i)) for i in range(5)}}
    save(tmp_path, tensors=tensors, state={})
    assert len(list(tmp_path.glob("checkpoint-*/*.safetensors"))) == 3
    into = {name: torch.zeros(100) for name in tensors["m"]}
    checkpoint.load(tmp_path).fill("m", into)
    assert all(torch.equal(into[name], value) for name, value in tensors["m"].items())


@contextlib.contextmanager
def full_disk():
    """No file may grow over 10,000 bytes, which Python says as an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("where", ["check", "save", "wait"])
def test_a_write_that_failed_is_said_and_the_checkpoint_before_stays(tmp_path, where):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(tensors={"m": {"x": torch.zeros(1)}}, state={"step": 0})
    checkpoints.wait()
    checkpoints.check()
    with full_disk():
        checkpoints.save(tensors={"m": {"x": torch.zeros(9999)}}, state={"step": 1})
        concurrent.futures.wait([checkpoints._writing])
    again = {"tensors": {"m": {"x": torch.ones(1)}}, "state": {"step": 2}}
    call = getattr(checkpoints, where)
    with pytest.raises(UserError, match=r"could not be written .*File too large.*--resume"):
        call(**again) if where == "save" else call()
    assert checkpoint.load(tmp_path).state == {"step": 0}
    checkpoints.save(**again)
    checkpoints.wait()
    assert checkpoint.load(tmp_path).state == {"step": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000002", "latest"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/c: a checkpoint could not be written"):
        save(tmp_path / "file" / "c", tensors={}, state={})


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from sectow_fast.learn.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
for step in range(2):
    checkpoints.wait()
    if step:
        def kill(handle):  # the tensors' file is written, but nothing is whole yet
            os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = kill
    checkpoints.save(tensors={"m": {"x": torch.full((1000,), float(step))}}, state={"step": step})
checkpoints.wait()
"""


def test_kill_9_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".part-*/*.safetensors"))
    saved = checkpoint.load(tmp_path)
    into = {"x": torch.ones(1000)}
    saved.fill("m", into)
    assert saved.state == {"step": 0} and not into["x"].any()
    save(tmp_path, tensors={"m": {"x": torch.ones(1)}}, state={"step": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000002", "latest"]


def test_schedules():
    assert lr_at(0, 100, 1.0, 10, 0.6) == pytest.approx(0.1)
    assert lr_at(59, 100, 1.0, 10, 0.6) == 1.0
    assert lr_at(99, 100, 1.0, 10, 0.6) == pytest.approx(0.1)
    assert cosine_lr_at(0, 1000, 1.0) == pytest.approx(1 / 40)
    assert cosine_lr_at(999, 1000, 1.0) == pytest.approx(0.03, abs=1e-3)
