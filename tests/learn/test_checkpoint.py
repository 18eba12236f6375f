from __future__ import annotations

import pytest
import torch

from sectow_fast.learn import checkpoint
from sectow_fast.learn.optim import cosine_lr_at, lr_at, make_optimizer
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
            "optimizer": checkpoint.optimizer_tensors(optimizer, model),
        },
        state={"step": 3},
    )
    saved = checkpoint.load(tmp_path)
    assert saved.state == {"step": 3}
    again, fresh = trained(0)
    saved.fill("model", again.state_dict())
    saved.fill_optimizer(fresh, again)
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


def test_schedules():
    assert lr_at(0, 100, 1.0, 10, 0.6) == pytest.approx(0.1)
    assert lr_at(59, 100, 1.0, 10, 0.6) == 1.0
    assert lr_at(99, 100, 1.0, 10, 0.6) == pytest.approx(0.1)
    assert cosine_lr_at(0, 1000, 1.0) == pytest.approx(1 / 40)
    assert cosine_lr_at(999, 1000, 1.0) == pytest.approx(0.03, abs=1e-3)
