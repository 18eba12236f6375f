from __future__ import annotations

import dataclasses

import families
import pytest
import torch
from families import MODELS, TEXT, sample
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from sectow_fast.families import text_family
from sectow_fast.learn import policy as learnt
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


@pytest.mark.parametrize("cap", [5.0, None])
def test_capped_logits_are_the_models_own(monkeypatch, cap):
    """The text class of Gemma 3 caps its logits in its own head; ours must be told to."""
    torch.manual_seed(0)
    numbers = dict(head_dim=8, layer_types=["full_attention"] * 2, final_logit_softcapping=5.0)
    model = families.lively(lambda: Gemma3ForCausalLM(Gemma3TextConfig(**TEXT | numbers)))()
    for module in (learnt, families):
        monkeypatch.setattr(module, "family_of", lambda model: text_family(model.config))
    made = sample(model)
    policy, prompts = Policy(model, made.codec), [prompt for prompt, _ in made.groups]
    if cap is None:
        policy.family = dataclasses.replace(policy.family, softcap=None)
        with pytest.raises(UserError, match=r"self-test.*Gemma3ForCausalLM.*differ by"):
            check_packing(policy, prompts)
    else:
        assert policy.family.softcap == cap
        check_packing(policy, prompts)  # raises where the bound is not held


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
