from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import tower_calls
from families import MODELS, sample

from sectow_fast.config import LearnConfig
from sectow_fast.learn.attention import PREFIX, TOWER
from sectow_fast.learn.policy import Policy, make_policy
from sectow_fast.learn.tower import tower_parameters

SEEING = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3")
CPU = torch.device("cpu")


def flat(made):
    """All features of a tower's output, in one tensor."""
    layers = [made.pooler_output, *(getattr(made, "deepstack_features", None) or [])]
    return torch.cat([part.flatten() for layer in layers for part in layer])


@pytest.fixture(params=SEEING)
def seeing(request):
    torch.manual_seed(0)
    model = MODELS[request.param]()
    return model, sample(model)


def first_row(policy, groups):
    row, _ = next(policy.rows(groups, 1000))
    return row


def test_features_and_gradients_are_those_of_the_models_own_tower(seeing):
    model, made = seeing
    own = copy.deepcopy(model)
    policy = Policy(model, made.codec)
    packed = hasattr(model.config.vision_config, "spatial_merge_size")
    name = (TOWER if packed else PREFIX) + "sdpa"
    assert model.config.vision_config._attn_implementation == name
    assert own.config.vision_config._attn_implementation == "sdpa"
    row = first_row(policy, made.groups)
    assert row.images == ("wide", "tall", "square", "tall", "wide", "tall")
    ours = flat(policy.tower.outputs(row, CPU)["mm_encoder_outputs"]["image"])
    theirs = flat(own.model.get_image_features(**row.pixel_inputs, return_dict=True))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    pairs = list(zip(tower_parameters(model), tower_parameters(own), strict=True))
    assert sum(float(p.grad.abs().sum()) for p, _ in pairs if p.grad is not None) > 1
    for mine, wanted in pairs:
        if wanted.grad is not None:
            scale = wanted.grad.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(mine.grad / scale, wanted.grad / scale, atol=1e-5, rtol=1e-4)


def test_a_forward_that_is_not_ours_goes_through_the_models_own_tower(seeing):
    """So the start-up self-test compares our segments with something else."""
    model, made = seeing
    prompt = made.groups[0][0]
    ids = torch.tensor([prompt.ids])
    inputs = made.codec.pixel_inputs([prompt]) | made.codec.family.own_inputs(ids)
    before = model(input_ids=ids, **inputs).logits
    Policy(model, made.codec)
    assert torch.equal(model(input_ids=ids, **inputs).logits, before)


def test_calls_of_a_row_of_four_pictures_of_1024_tokens():
    """`python tests/learn/tower_calls.py` counts transformers' own: 14,376 calls, 202 reads."""
    # One call per block and length of its spans, in the forward and again where it is recomputed.
    # The reads are of the grid, which is on the host: none per block.
    assert tower_calls.counted(tower_calls.policy_of()) == (72, 12)


FROZEN = {"adapters": dict(lora_rank=4), "setting": dict(freeze_tower=True)}


def passes(policy, groups):
    """(log-probs, gradients by name) of all rows."""
    policy.train()
    policy.zero_grad()
    logps = []
    for row, _ in policy.rows(groups, 40):
        logp, _ = policy(row, ban=False)
        logp.square().sum().backward()
        logps.append(logp.detach())
    found = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    return torch.cat(logps), found


@pytest.fixture(params=FROZEN)
def frozen(seeing, request):
    """(policy that keeps features, the same without, groups, a list that grows by one for every
    forward of the tower)"""
    model, made = seeing
    pair = []
    for gib in (1.0, 1e-12):
        torch.manual_seed(1)  # adapters are drawn
        config = LearnConfig(picture_gib=gib, **FROZEN[request.param])
        pair.append(make_policy(copy.deepcopy(model), made.codec, config))
    runs = []
    inner = pair[0].model.model
    tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
    tower.register_forward_hook(lambda *_: runs.append(1))
    return *pair, made.groups, runs


def test_features_of_a_frozen_tower_are_computed_once_and_change_nothing(frozen):
    keeping, computing, groups, runs = frozen
    wanted, gradients = passes(computing, groups)
    assert gradients and computing.tower.kept_bytes == 0
    for number in range(3):
        found, mine = passes(keeping, groups)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert mine.keys() == gradients.keys()
        for name, value in gradients.items():
            scale = value.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(mine[name] / scale, value / scale, atol=1e-5, rtol=1e-4)
        if not number:
            once = len(runs)
    assert len(runs) == once > 0


def test_features_are_forgotten_where_a_weight_of_the_tower_is_written(frozen):
    keeping, computing, groups, runs = frozen
    passes(keeping, groups)
    once = len(runs)
    weight = tower_parameters(keeping.model)[-1]
    with torch.no_grad():
        weight.add_(0.5)
    changed, _ = passes(keeping, groups)
    assert len(runs) == 2 * once
    computing.load_state_dict(keeping.state_dict())
    torch.testing.assert_close(changed, passes(computing, groups)[0], atol=1e-5, rtol=1e-5)
    keeping.model.load_state_dict(keeping.model.state_dict())
    passes(keeping, groups)
    assert len(runs) == 3 * once


def test_features_of_sharded_weights_are_forgotten_too(seeing):
    """FSDP2 puts whole copies in the place of weights for the time of a forward."""
    model, made = seeing
    config = LearnConfig(freeze_tower=True)
    policy = make_policy(copy.deepcopy(model), made.codec, config, apart=True)
    weights = tower_parameters(policy.model)
    given = {name: value.detach().clone() for name, value in policy.state_dict().items()}
    writes = (
        lambda: weights[-1].add_(0.5),
        lambda: weights[0].add_(0.5),
        lambda: weights[-1].to_local().mul_(2.0),
        lambda: policy.load_state_dict(given),
    )
    first, _ = passes(policy, made.groups)
    kept = list(policy.tower._kept.values())
    again, _ = passes(policy, made.groups)
    assert torch.equal(first, again) and kept
    assert set(map(id, kept)) == set(map(id, policy.tower._kept.values()))
    for write in writes:
        kept = list(policy.tower._kept.values())
        with torch.no_grad():
            write()
        passes(policy, made.groups)
        assert not set(map(id, kept)) & set(map(id, policy.tower._kept.values()))
    torch.testing.assert_close(passes(policy, made.groups)[0], first)


def test_features_that_do_not_fit_are_computed_again(seeing):
    model, made = seeing
    policy = make_policy(model, made.codec, LearnConfig(freeze_tower=True))
    row = first_row(policy, made.groups)
    whole = flat(policy.tower.outputs(row, CPU)["mm_encoder_outputs"]["image"])
    policy.tower.kept_bytes = 1
    again, runs = dataclasses.replace(row), []
    inner = model.model
    tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
    tower.register_forward_hook(lambda *_: runs.append(1))
    for number in range(2):
        out = flat(policy.tower.outputs(again, CPU)["mm_encoder_outputs"]["image"])
        torch.testing.assert_close(out, whole, atol=1e-5, rtol=1e-5)
        # What was kept before the bound was lowered serves once; nothing is kept after it.
        assert bool(runs) == bool(number) and not policy.tower._kept


def test_a_kept_picture_holds_its_own_features_alone(seeing):
    model, made = seeing
    policy = make_policy(model, made.codec, LearnConfig(freeze_tower=True))
    policy.tower.outputs(first_row(policy, made.groups), CPU)
    values = [one for kept in policy.tower._kept.values() for one in kept.values]
    assert values and all(one.untyped_storage().nbytes() == one.nbytes for one in values)


def test_a_tower_that_learns_keeps_nothing(seeing):
    model, made = seeing
    policy = make_policy(model, made.codec, LearnConfig())
    assert policy.tower.kept_bytes == 0
    _, gradients = passes(policy, made.groups)
    assert any("vision" in name or "visual" in name for name in gradients)
