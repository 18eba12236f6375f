"""FSDP2 on one rank and on two: the plain model's updates, by every way to train it."""

from __future__ import annotations

import copy
from pathlib import Path

import commands
import pytest
import torch
from families import MODELS, sample
from modes import MODES, trained
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sectow_fast.config import LearnConfig
from sectow_fast.engine.weight_sync import checkpoint_weights, covered
from sectow_fast.learn.lora import Merged, merged_state
from sectow_fast.learn.policy import make_policy
from sectow_fast.learn.sharding import sync_gradients, whole_weights


def assert_same(first, second, *, rel: float) -> None:
    for mine, theirs in zip(first[0], second[0], strict=True):
        assert mine == pytest.approx(theirs, rel=rel) and mine["grad_norm"] > 0.01
    assert first[1].keys() == second[1].keys()
    for name, value in first[1].items():
        torch.testing.assert_close(value, second[1][name], rtol=rel, atol=rel / 10, msg=name)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen2"])
def test_one_rank_of_fsdp_is_the_plain_model_bit_for_bit(name):
    plain, sharded, offloaded = (
        trained(mode, name=name, apart=apart)
        for mode, apart in (("float32", False), ("float32", True), ("offload", True))
    )
    for other in (sharded, offloaded):
        assert plain[0] == other[0] and plain[1].keys() == other[1].keys()
        assert all(torch.equal(value, other[1][key]) for key, value in plain[1].items())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("modes") / "found.pt"
    commands.run_ranks(Path(__file__).with_name("modes.py"), out)
    return torch.load(out)


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_train_as_one_does(two_ranks, mode):
    low = MODES[mode].get("dtype") == "bfloat16"
    assert_same(trained(mode), two_ranks[mode], rel=3e-2 if low else 1e-4)


def test_gradients_are_reduced_once_for_an_update_of_many_rows(two_ranks):
    for mode, (_, _, (many, one)) in two_ranks.items():
        assert many > one if mode == "offload" else many == one > 0, mode


def policy_of(name: str = "llava", **learn):
    torch.manual_seed(0)
    model = MODELS[name]()
    made = sample(model)
    return make_policy(model, made.codec, LearnConfig(**learn), apart=True), made


def test_gradients_appear_with_the_last_row_which_may_have_no_picture():
    policy, made = policy_of()
    groups = [*made.groups[:1], *made.groups[2:], made.groups[1]]
    rows = list(policy.rows(groups, 40))
    assert len(rows) > 2
    order = sorted(rows, key=lambda row: not row[0].pixel_inputs)  # those with pictures first
    for number, (row, _) in enumerate(sync_gradients(policy, iter(order[::-1]))):
        assert all(p.grad is None for p in policy.parameters()), number
        policy(row, ban=False)[0].sum().backward()
    assert all(p.grad is not None for p in policy.model.get_decoder().parameters())


def test_every_block_of_decoder_and_tower_is_a_unit_and_none_stays_whole():
    policy, made = policy_of("qwen2_5_vl", dtype="bfloat16")
    blocks = [*policy.model.get_decoder().layers, *policy.model.model.visual.blocks]
    assert len(blocks) == 4 and all(isinstance(block, FSDPModule) for block in blocks)
    (row, _), *_ = policy.rows(made.groups, 1000)
    seen = []
    policy.model.model.visual.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        policy(row)
    dtypes = {t.dtype for t in torch.utils._pytree.tree_leaves(seen) if torch.is_tensor(t)}
    assert torch.bfloat16 in dtypes and torch.float32 in dtypes  # positions are not rounded
    assert all(isinstance(p, DTensor) for p in policy.parameters())
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_weights_are_merged_one_by_one_into_what_peft_merges(name):
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(0)
    plain = MODELS[name]()
    model = copy.deepcopy(plain)
    made = sample(model)
    policy = make_policy(model, made.codec, LearnConfig(lora_rank=4), apart=True)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key:
                value.add_(0.1)
    theirs = make_policy(copy.deepcopy(plain), made.codec, LearnConfig(lora_rank=4)).model
    theirs.load_state_dict({k: v.full_tensor() for k, v in model.state_dict().items()})
    for module in theirs.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    merged = {
        key.replace(".base_layer", ""): value
        for key, value in theirs.state_dict().items()
        if "lora_" not in key
    }
    ours = dict(whole_weights(model))
    assert ours.keys() == merged.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, merged[key]) for key, value in ours.items())
    changed = [k for k, v in plain.state_dict().items() if not torch.equal(v, ours[k])]
    assert len(changed) == sum(isinstance(v, Merged) for v in merged_state(model).values()) > 0
    # What an engine is sent has the checkpoint's names, and nothing is merged for looking.
    shapes = {k: tuple(v.shape) for k, v in checkpoint_weights(plain).items()}
    sent = covered(checkpoint_weights(model, merged_state(model)), shapes)
    assert sum(isinstance(value, Merged) for _, value in sent) == len(changed)
    assert policy.backend == "sdpa"
