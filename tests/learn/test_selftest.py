from __future__ import annotations

import dataclasses

import pytest
import torch
from families import MODELS, sample

from sectow_fast.learn.policy import Policy
from sectow_fast.learn.selftest import check_packing
from sectow_fast.types import UserError


@pytest.fixture
def policy():
    torch.manual_seed(0)
    model = MODELS["qwen2_5_vl"]()
    made = sample(model)
    return Policy(model, made.codec), [prompt for prompt, _ in made.groups]


@pytest.mark.parametrize("name", MODELS)
def test_every_known_class_passes(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    made = sample(model)
    model.train()
    worst = check_packing(Policy(model, made.codec), [prompt for prompt, _ in made.groups])
    assert 0 <= worst < 1e-4 and model.training


def test_wrong_positions_are_refused(policy):
    policy, prompts = policy
    policy.family = dataclasses.replace(policy.family, merge=1)
    # What a Qwen-VL trained on before: positions of plain text, image or not.
    object.__setattr__(
        policy.family,
        "positions",
        lambda ids, grids: (torch.arange(len(ids)).expand(3, -1), len(ids)),
    )
    object.__setattr__(policy.family, "check", lambda *_: None)
    with pytest.raises(UserError, match=r"self-test.*Qwen2_5_VL.*differ by.*case '[abcs]"):
        check_packing(policy, prompts)


def test_completions_that_see_each_other_are_refused(policy, monkeypatch):
    from sectow_fast.learn import segments

    policy, prompts = policy
    real = segments.joined

    def leaky(parts, window):
        made = real(parts, window)
        return [
            one
            if one.seen is None
            else dataclasses.replace(one, seen=one.seen | torch.ones_like(one.seen))
            for one in made
        ]

    monkeypatch.setattr("sectow_fast.learn.attention_sdpa.joined", leaky)
    with pytest.raises(UserError, match="self-test"):
        check_packing(policy, prompts)


def test_weights_that_are_not_finite_are_refused(policy):
    policy, prompts = policy
    with torch.no_grad():
        policy.model.lm_head.weight[9, 0] = torch.nan
    with pytest.raises(UserError, match="differ by nan"):
        check_packing(policy, prompts)
