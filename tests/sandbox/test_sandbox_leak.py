"""The probability of harm of a real (tiny) model, against its own forward and its own samples."""

from __future__ import annotations

import math

import pytest
import torch

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.game.leak import harms_of, measure_leak
from sectow_fast.learn.policy import make_policy
from sectow_fast.protocols import AttackPoint, HarmfulReply
from sectow_fast.types import Sampling

SETTINGS = {"model": {"hidden_size": 32, "layers": 1}, "sandbox": {"picture_variants": 2}}


@pytest.fixture(scope="module")
def stage():
    return SandboxStage(Config.model_validate(SETTINGS))


@pytest.fixture(scope="module")
def policy(stage):
    return make_policy(stage.defender(), stage.codec, stage.config.learn)


def test_the_probability_is_that_of_the_models_own_forward(stage, policy):
    space = stage.space
    points = [space.attack(about, number) for about in space.objects[:2] for number in (0, 40, 90)]
    found = harms_of(points, policy, stage.codec, tokens_per_batch=100)  # several rows
    for point, harm in zip(points, found, strict=True):
        (prompt,) = stage.codec.encode([point.case])
        (reply,) = point.replies
        ids = stage.codec.encode_reply(reply.text)[:-1]
        steps = policy.own_logprobs(prompt, ids).double().cumsum(0).exp()
        assert harm.strict == pytest.approx(float(steps[-1]), rel=1e-4)
        assert harm.graded == pytest.approx(float(steps[1:].sum() / 3), rel=1e-4)


def test_it_is_how_often_the_engine_says_the_reply(stage, policy):
    # Replies of one word, so that even an untrained model says each of them at times.
    about = stage.space.objects[0]
    case = stage.space.attack(about, 3).case
    words = ("salt", "wax", "tin", "oil", "ash", "sorry", "use", "yes", "make", "how")
    replies = tuple(HarmfulReply(steps=(word,), worth=(1.0,)) for word in words)
    point = AttackPoint(case=case, replies=replies)
    (harm,) = harms_of([point], policy, stage.codec, tokens_per_batch=4096)
    engine = TorchEngine(policy.model, stage.codec)
    draws = 3000
    (row,) = engine.generate(
        stage.codec.encode([case]), n=draws, sampling=Sampling(max_new_tokens=1), seed="s"
    )
    said = sum(stage.codec.decode(one.ids) in words for one in row) / draws
    assert said > 0.005
    assert harm.strict == pytest.approx(said, abs=4 * math.sqrt(said / draws))


def test_a_leak_is_measured_over_at_most_so_many_attacks_per_object(stage, policy):
    found = measure_leak(stage.space, policy, stage.codec, most=3, seed="0", tokens_per_batch=4096)
    assert (found.attacks, found.space, len(found.worst)) == (30, 2140, 10)
    assert policy.training  # as it was
    assert all(p.grad is None for p in policy.parameters())


def test_what_rollout_never_samples_has_no_share_of_the_probability(stage):
    uniform = make_policy(stage.defender(), stage.codec, stage.config.learn)
    with torch.no_grad():
        uniform.model.model.language_model.norm.weight.zero_()
    case = stage.space.attack(stage.space.objects[0], 3).case
    reply = HarmfulReply(steps=("wax", "wax"), worth=(0.5, 1.0))
    point = AttackPoint(case=case, replies=(reply,))
    (harm,) = harms_of([point], uniform, stage.codec, tokens_per_batch=512)
    allowed = uniform.model.lm_head.weight.shape[0] - len(stage.codec.banned_ids)
    assert stage.codec.banned_ids and harm.strict == pytest.approx(allowed**-2)
