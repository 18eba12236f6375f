from __future__ import annotations

import pytest
import torch
from alone import check_rows
from classes_2026 import CLASSES, Pictures
from families import sample

from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.policy import Policy
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


def test_the_torch_engine_draws_by_the_trainers_log_probs(tiny):
    """Of experts too: in float32 rollout and training choose the same ones."""
    made = made_for(tiny)
    prompts = [prompt for prompt, _ in made.groups]
    policy = Policy(tiny, made.codec)
    sampling = Sampling(max_new_tokens=5, temperature=1.0)
    drawn = TorchEngine(tiny, made.codec).generate(prompts, n=2, sampling=sampling, seed="s")
    rows = [(p, one) for p, done in zip(prompts, drawn, strict=True) for one in done]
    assert len({one.ids for _, one in rows}) > 3
    assert float(rollout_gaps(policy, rows, 1.0).max()) < 1e-4


def test_features_of_a_frozen_tower_are_kept_by_picture(tiny):
    made = made_for(tiny)
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
