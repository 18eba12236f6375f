"""Weights and Adam's moments that rest in host memory between updates, on a CPU and on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.placement import Offload, at_work, training_device
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Group, Reward, Sampling, UserError

# One rollout for three updates, so the gate is left out.
CONFIG = GRPOConfig(group_size=4, lr=1e-3, mismatch_max=1e9)
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def rolled(stage, model) -> list[Group]:
    prompts = stage.codec.encode(stage.world.train_cases("harmless")[:4])
    replies = TorchEngine(model, stage.codec).generate(
        prompts, n=4, sampling=Sampling(max_new_tokens=6), seed="test"
    )
    rewards = tuple(Reward(total=float(j % 2)) for j in range(4))
    return [
        Group(prompt=p, completions=tuple(row), rewards=rewards)
        for p, row in zip(prompts, replies, strict=True)
    ]


def steps(policy, optimizer, groups) -> None:
    for _ in range(3):
        with at_work(policy, optimizer):
            metrics = grpo_step(policy, optimizer, groups, config=CONFIG)
        assert not metrics["skipped"] and metrics["grad_norm"] > 0


@pytest.mark.parametrize("device", DEVICES)
def test_resting_between_updates_changes_no_bit(stage, model, device):
    groups = rolled(stage, model)
    home = training_device(device)
    policies, optimizers = [], []
    for one in (copy.deepcopy(model), copy.deepcopy(model)):
        policy = Policy(one.to(home), stage.codec)
        if policies:
            policy.offload = Offload(one, home)
            policy.offload.rest()
        policies.append(policy)
        optimizers.append(make_optimizer(one, 1e-3, betas=(0.9, 0.95), weight_decay=0.0))
        steps(policy, optimizers[-1], groups)
    kept, rested = policies
    assert {p.device.type for p in rested.parameters()} == {"cpu"}
    moments = 0
    for (name, a), b in zip(kept.named_parameters(), rested.parameters(), strict=True):
        assert torch.equal(a.cpu(), b), name
        mine, theirs = (optimizers[i].state[x] for i, x in enumerate((a, b)))
        assert mine.keys() == theirs.keys()
        moments += len(mine)
        for key in mine:
            assert theirs[key].device.type == "cpu"
            assert torch.equal(mine[key].cpu(), theirs[key]), (name, key)
    assert moments >= 3 * 30


@pytest.mark.parametrize("device", DEVICES)
def test_updates_on_the_device_return_to_the_same_host_buffers(model, device):
    home = training_device(device)
    parameters = list(model.parameters())
    versions = [p._version for p in parameters]
    optimizer = make_optimizer(model, 1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    offload = Offload(model.to(home), home)
    offload.rest(optimizer)
    places = [p.data_ptr() for p in parameters]
    expected = [p.detach().clone() for p in parameters]
    for _ in range(2):
        with offload.at_work(optimizer):
            for p, value in zip(parameters, expected, strict=True):
                assert p.device.type == device
                p.data = p.data.clone()  # another place, as on a GPU
                with torch.no_grad():
                    p.add_(1.0)
                value.add_(1.0)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert [p.data_ptr() for p in parameters] == places
    assert all(p.is_pinned() == (device == "cuda") for p in parameters)
    for p, value, version in zip(parameters, expected, versions, strict=True):
        assert torch.equal(p, value)
        assert p._version == version + 2  # the engines find a forgotten sync by it


def test_after_an_error_the_weights_are_in_host_memory_again(model):
    offload = Offload(model, torch.device("cpu"))
    offload.rest()
    places = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), offload.at_work():
        for p in model.parameters():
            p.data = p.data.clone()
        raise ZeroDivisionError
    assert [p.data_ptr() for p in model.parameters()] == places


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UserError, match=r"learn\.device cuda: found no GPU"):
        training_device("cuda")
    assert training_device("auto") == training_device("cpu") == torch.device("cpu")
