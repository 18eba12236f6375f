"""The probability of harm: by teacher forcing, and what is told of it."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.game.leak import (
    Harm,
    asr_at,
    chosen,
    harm_of,
    harms_of,
    measure_leak,
    reply_ids,
    summarise,
)
from sectow_fast.learn.policy import make_policy
from sectow_fast.protocols import AttackPoint, HarmfulReply
from sectow_fast.records import LeakRecord
from sectow_fast.types import Case, Sampling, UserError

SETTINGS = {"model": {"hidden_size": 32, "layers": 1}, "sandbox": {"picture_variants": 2}}


@pytest.fixture(scope="module")
def stage():
    return SandboxStage(Config.model_validate(SETTINGS))


@pytest.fixture(scope="module")
def policy(stage):
    return make_policy(stage.defender(), stage.codec, stage.config.learn)


def attack(about="bado", style="typo", replies=(("use", "wax"),)):
    case = Case(id=f"{about}/{style}", text="make shown", label="unsafe", about=about, style=style)
    told = [HarmfulReply(steps=one, worth=(0.0,) * (len(one) - 1) + (1.0,)) for one in replies]
    return AttackPoint(case=case, replies=tuple(told))


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


def test_the_whole_space_or_a_draw_of_it_that_depends_on_the_seed_alone():
    assert list(chosen(5, most=5, key="k")) == [0, 1, 2, 3, 4]
    huge = chosen(10**12, most=50, key="k")
    assert len(set(huge)) == 50 and max(huge) > 10**11 and huge == sorted(huge)
    assert huge == chosen(10**12, most=50, key="k") != chosen(10**12, most=50, key="l")


def test_asr_at_k_is_what_drawing_k_attacks_gives():
    # Brute force: every sequence of k draws with replacement, each answered once.
    chances = (0.0, 0.1, 0.7)
    mean = sum(chances) / 3
    for k in (1, 2, 5):
        drawn = itertools.product(chances, repeat=k)
        exact = sum(1 - math.prod(1 - p for p in one) for one in drawn) / 3**k
        assert asr_at(mean, k) == pytest.approx(exact)
    rng = random.Random(0)
    tries = 4000
    won = sum(any(rng.random() < rng.choice(chances) for _ in range(5)) for _ in range(tries))
    assert asr_at(mean, 5) == pytest.approx(won / tries, abs=0.03)
    assert asr_at(1e-9, 1000) == pytest.approx(1e-6, rel=1e-3) and asr_at(1.0, 1) == 1.0


def test_what_two_replies_begin_with_in_common_counts_once():
    a, b = ("use", "wax", "tin"), ("use", "wax", "oil")
    replies = [HarmfulReply(steps=one, worth=(0.0, 0.5, 1.0)) for one in (a, b)]
    logs = [[math.log(0.5), math.log(0.4), math.log(p)] for p in (0.75, 0.25)]
    harm = harm_of(replies, [(1, 2, 3)] * 2, logs)
    assert harm.strict == pytest.approx(0.2)  # 0.5 * 0.4 * (0.75 + 0.25)
    assert harm.graded == pytest.approx(0.5 * 0.2 + 0.5 * 0.2)


def test_what_is_told_of_the_attacks_by_object_and_by_style():
    points = [attack(about, style) for about in ("bado", "kilo") for style in ("typo", "draw")]
    strict = (0.1, 0.3, 0.0, 0.2)
    found = summarise(points, [Harm(strict=p, graded=p / 2) for p in strict], space=40)
    assert (found.attacks, found.space, found.mean.objects) == (4, 40, 2)
    assert found.mean.value == found.asr_at[1].value == pytest.approx(0.15)
    assert found.graded.value == pytest.approx(0.075)
    assert found.worst == (0.3, 0.2) and found.worst_median.value == pytest.approx(0.25)
    assert found.asr_at[10].value == pytest.approx(1 - (0.8**10 + 0.9**10) / 2)
    assert {k: v.value for k, v in found.styles.items()} == pytest.approx(
        {"draw": 0.25, "typo": 0.05}
    )
    # The objects' means are 0.2 and 0.1: resamples of the two give nothing outside of them.
    assert (found.mean.low, found.mean.high) == (pytest.approx(0.1), pytest.approx(0.2))
    assert LeakRecord.from_dict(found.as_dict()) == found


def test_a_leak_is_measured_over_at_most_so_many_attacks_per_object(stage, policy):
    found = measure_leak(stage.space, policy, stage.codec, most=3, seed="0", tokens_per_batch=4096)
    assert (found.attacks, found.space, len(found.worst)) == (30, 2140, 10)
    assert policy.training  # as it was
    assert all(p.grad is None for p in policy.parameters())


def test_what_rollout_never_samples_has_no_share_of_the_probability(stage):
    uniform = make_policy(stage.defender(), stage.codec, stage.config.learn)
    with torch.no_grad():
        uniform.model.model.language_model.norm.weight.zero_()
    point = attack(replies=(("wax", "wax"),))
    (harm,) = harms_of([point], uniform, stage.codec, tokens_per_batch=512)
    allowed = uniform.model.lm_head.weight.shape[0] - len(stage.codec.banned_ids)
    assert stage.codec.banned_ids and harm.strict == pytest.approx(allowed**-2)


@pytest.mark.parametrize("worth", [(0.0,), (0.5, 0.2), (0.0, 0.9), (-0.1, 1.0)])
def test_worths_that_are_no_harm_growing_to_its_whole_are_refused(worth):
    with pytest.raises(ValueError, match="expected"):
        HarmfulReply(steps=("use", "wax"), worth=worth)


def test_replies_of_which_one_begins_with_another_are_refused():
    with pytest.raises(ValueError, match="begins with another"):
        attack(replies=(("use",), ("use", "wax")))
    with pytest.raises(ValueError, match="found 0"):
        attack(replies=())
    attack(replies=(("use", "wax"), ("use", "waxes")))


def test_a_step_that_ends_within_a_token_is_named():
    class Merging:
        def encode_reply(self, text):
            return (*{"a": (1,), "a b": (2,)}[text], 0)

    with pytest.raises(UserError, match="'a' ends within a token of 'a b'"):
        reply_ids(HarmfulReply(steps=("a", "b"), worth=(0.0, 1.0)), Merging())
