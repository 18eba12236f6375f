from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from alone import check_rows
from classes_2026 import CLASSES
from families import completion, sample
from pictures_2026 import Pictures

from sectow_fast.adapters.trl_rows import sharing
from sectow_fast.config import LearnConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn import attention, forks
from sectow_fast.learn.attention import TOWER
from sectow_fast.learn.policy import Policy, make_policy
from sectow_fast.learn.segments import Segments
from sectow_fast.learn.selftest import check_packing, rollout_gaps
from sectow_fast.types import Sampling, UserError


def made_for(model):
    """Groups of a wide picture, of words alone, and of several pictures (or a tall one)."""
    made = sample(model, Pictures)
    last = 2 if made.codec.family.name == "llava_onevision" else 4
    made.groups = [made.groups[i] for i in (0, 1, last)]
    return made


@pytest.fixture(params=CLASSES)
def tiny(request):
    torch.manual_seed(3)
    return CLASSES[request.param]()


def test_the_self_test_accepts_it_and_rows_equal_separate_forwards_in_every_gradient(tiny):
    made = made_for(tiny)
    worst = check_packing(Policy(tiny, made.codec), [prompt for prompt, _ in made.groups])
    assert 0 <= worst < 1e-5
    check_rows(tiny, made, 110)


# One of each kind of rows and features, and of each kind of cache.
KINDS = ("llava_next", "mistral3", "internvl", "idefics3", "qwen3_5_moe", "gemma4", "lfm2_vl")


@pytest.mark.parametrize("name", [*KINDS, "glm4v_moe", "gemma4_moe", "llava_onevision"])
def test_the_torch_engine_draws_by_the_trainers_log_probs(name):
    """Of experts too: in float32 rollout and training choose the same ones."""
    torch.manual_seed(3)
    made = made_for(tiny := CLASSES[name]())
    prompts = [prompt for prompt, _ in made.groups]
    policy = Policy(tiny, made.codec)
    sampling = Sampling(max_new_tokens=5, temperature=1.0)
    drawn = TorchEngine(tiny, made.codec).generate(prompts, n=2, sampling=sampling, seed="s")
    rows = [(p, one) for p, done in zip(prompts, drawn, strict=True) for one in done]
    assert len({one.ids for _, one in rows}) > 3
    assert float(rollout_gaps(policy, rows, 1.0).max()) < 1e-4


@pytest.mark.parametrize("name", [*KINDS, "minicpmv4_6"])
def test_features_of_a_frozen_tower_are_kept_by_picture(name):
    torch.manual_seed(3)
    made = made_for(tiny := CLASSES[name]())
    for parameter in tiny.parameters():
        parameter.requires_grad_(False)
    keeping, computing = Policy(tiny, made.codec), Policy(tiny, made.codec, kept_bytes=0)
    (row, _), *_ = computing.rows(made.groups, 1000)
    with torch.no_grad():
        wanted, _ = computing(row)
        (one, _), *_ = keeping.rows(made.groups[:1], 1000)
        keeping(one)  # one picture is kept, and the others are computed beside it
        for _ in range(2):
            torch.testing.assert_close(keeping(row)[0], wanted, atol=1e-5, rtol=1e-5)
    assert sorted(keeping.tower._kept) == sorted(set(row.images))


def test_several_pictures_of_a_class_that_shows_them_otherwise_are_refused():
    model = CLASSES["llava_onevision"]()
    made = sample(model, Pictures)
    with pytest.raises(UserError, match="'several': found 3 images, expected one: llava_onevision"):
        list(Policy(model, made.codec).rows(made.groups, 1000))


@pytest.mark.parametrize("name", ["qwen3_5", "gemma4", "qwen3_vl_moe"])
def test_checkpointing_and_shards_change_no_gradient(name):
    """States that fork, keys that layers share, and experts."""
    torch.manual_seed(3)
    model = CLASSES[name]()
    made = made_for(model)
    both = []
    for config, apart in ((LearnConfig(), False), (LearnConfig(gradient_checkpointing=True), True)):
        policy = make_policy(copy.deepcopy(model), made.codec, config, apart=apart)
        policy.train()
        for row, _ in policy.rows(made.groups, 110):
            policy(row)[0].sum().backward()
        both.append({n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None})
    plain, sharded = both
    assert plain.keys() == sharded.keys()
    for parameter, wanted in plain.items():
        scale = wanted.abs().max().clamp(min=1e-3)
        found = sharded[parameter].to_local()
        torch.testing.assert_close(found / scale, wanted / scale, atol=1e-4, rtol=1e-3)


def no_tail(monkeypatch):
    of = forks.Begun.of
    monkeypatch.setattr(
        forks.Begun,
        "of",
        lambda self, which: forks.Begun(0 * (one := of(self, which)).tail, one.state),
    )


FAULTS = {
    "no fork": ("qwen3_5", lambda m: m.setattr(forks, "masks_for", lambda model, mask: mask)),
    "no tail": ("lfm2_vl", no_tail),
    "pictures that see each other": ("mistral3", lambda m: m.setattr(attention, "PREFIX", TOWER)),
    "blocks in every layer": (
        "gemma4_moe",
        lambda m: m.setattr(Segments, "blocks_of", lambda self, window: self.blocks),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_self_test_refuses(fault, monkeypatch):
    name, plant = FAULTS[fault]
    plant(monkeypatch)
    torch.manual_seed(3)
    model = CLASSES[name]()
    made = made_for(model)
    with pytest.raises(UserError, match="self-test of packed rows"):
        check_packing(Policy(model, made.codec), [prompt for prompt, _ in made.groups])


def test_a_picture_whose_tiles_do_not_match_its_placeholders_is_refused():
    made = made_for(model := CLASSES["internvl"]())
    prompt = made.groups[0][0]
    wrong = dataclasses.replace(prompt, images=("square",))
    with pytest.raises(UserError, match="'a': found 8 image tokens in its prompt, expected 4"):
        list(Policy(model, made.codec).rows([(wrong, made.groups[0][1])], 1000))


def test_trls_rows_fork_states_and_refuse_pictures_of_these_kinds():
    torch.manual_seed(3)
    model = CLASSES["qwen3_5"]()
    share, _ = sharing(model)
    prompt, done = torch.arange(5, 12), [completion(4, 1), completion(4, 9)]
    replies = torch.tensor([one.ids for one in done])
    inputs = {"prompt_ids": prompt.repeat(2, 1), "completion_ids": replies}
    masks = {"prompt_mask": torch.ones(2, 7), "completion_mask": torch.ones(2, 4, dtype=torch.long)}
    batch = share(inputs | masks, torch.ones(2, dtype=torch.bool))
    assert batch.row.tokens == 7 + 4 + 4
    with torch.no_grad():
        found = batch.states(model.model(**batch.model_inputs, use_cache=False).last_hidden_state)
        whole = model.model(input_ids=torch.cat([inputs["prompt_ids"], replies], 1))
    wanted = whole.last_hidden_state[:, 6:-1].flatten(0, 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="found internvl, expected a class with images as LLaVA"):
        sharing(CLASSES["internvl"]())
