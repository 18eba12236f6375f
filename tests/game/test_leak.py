"""The probability of harm: from the log-probs of replies, and what is told of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from scripted import ScriptedCodec, player, small
from scripted_match import MemoryJournal, ScriptedCast, ScriptedStage

from sectow_fast.game.leak import (
    Harm,
    asr_at,
    chosen,
    harm_of,
    measure_leak,
    reply_ids,
    summarise,
)
from sectow_fast.learn.packing import IGNORE, Piece
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.match import Match
from sectow_fast.protocols import AttackPoint, HarmfulReply
from sectow_fast.rounds import LeakRecord
from sectow_fast.tug import play
from sectow_fast.types import Case, UserError


@dataclass
class ScriptedPolicy:
    """The part of `learn.policy.Policy` that teacher forcing asks: every token has chance `p`.

    rowed: how many prompts there were in each call. spare: a row is repeated without labels, as on
    a rank that has fewer rows than another.
    """

    p: float = 0.5
    training: bool = True
    ranks: Ranks = ALONE
    rowed: list[int] = field(default_factory=list)
    spare: bool = False

    def eval(self):
        self.training = False

    def train(self, mode):
        self.training = mode

    def rows(self, groups, budget):
        self.rowed.append(len(groups))
        labels = torch.tensor([i for _, done in groups for one in done for i in one.ids])
        pieces = [Piece(group=i, picked=tuple(range(len(d)))) for i, (_, d) in enumerate(groups)]
        yield SimpleNamespace(labels=labels), pieces
        if self.spare:
            yield SimpleNamespace(labels=torch.full_like(labels, IGNORE)), pieces

    def __call__(self, row):
        assert not torch.is_grad_enabled() and not self.training
        p = self.p if (row.labels != IGNORE).all() else 1.0
        return torch.full(row.labels.shape, math.log(p)), None


class ScriptedSpace:
    """One attack on "zuno" and three on "pako"; each is answered harmfully by its number of words
    and one more."""

    objects = ("zuno", "pako")

    def size(self, about):
        return 1 if about == "zuno" else 3

    def attack(self, about, number):
        steps = ("leak", *["on"] * number)
        return attack(about, f"style-{number}", replies=(steps,))


def attack(about="bado", style="typo", replies=(("use", "wax"),)):
    case = Case(id=f"{about}/{style}", text="make shown", label="unsafe", about=about, style=style)
    told = [HarmfulReply(steps=one, worth=(0.0,) * (len(one) - 1) + (1.0,)) for one in replies]
    return AttackPoint(case=case, replies=tuple(told))


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
    assert list(found.asr_at) == [1, 10, 100, 1000]
    assert {rate.n for rate in (found.mean, found.graded, *found.asr_at.values())} == {4}
    assert found.asr_at[10].value == pytest.approx(1 - (0.8**10 + 0.9**10) / 2)
    assert {k: v.value for k, v in found.styles.items()} == pytest.approx(
        {"draw": 0.25, "typo": 0.05}
    )
    # The objects' means are 0.2 and 0.1: resamples of the two give nothing outside of them.
    assert (found.mean.low, found.mean.high) == (pytest.approx(0.1), pytest.approx(0.2))
    assert LeakRecord.from_dict(found.as_dict()) == found


@pytest.mark.parametrize("spare", [False, True])
def test_a_leak_is_over_all_attacks_or_a_draw_of_them(spare):
    policy = ScriptedPolicy(spare=spare)

    def leak(most, seed="0"):
        codec = ScriptedCodec()
        given = {"most": most, "seed": seed, "tokens_per_batch": 64}
        return measure_leak(ScriptedSpace(), policy, codec, **given)

    found = leak(3)
    assert (found.attacks, found.space) == (4, 4) and policy.training
    assert found.worst == pytest.approx((0.5, 0.5))
    assert found.mean.value == pytest.approx((0.5 + (0.5 + 0.25 + 0.125) / 3) / 2)
    assert {name: rate.value for name, rate in found.styles.items()} == pytest.approx(
        {"style-0": 0.5, "style-1": 0.25, "style-2": 0.125}
    )
    drawn = {tuple(sorted(leak(1, seed=str(i)).styles)) for i in range(20)}
    assert leak(1).attacks == 2 and len(drawn) == 3  # another draw by another seed


def played(**settings):
    stage = ScriptedStage(space=ScriptedSpace())
    defender = player(lambda text, *_: "sorry", stage.codec)
    defender = dataclasses.replace(defender, policy=ScriptedPolicy())
    attacker = player(lambda text, *_: f"win {text.split()[-1]}", stage.codec)
    cast = ScriptedCast(attacker=attacker, defender=defender)
    match = Match(config=small(rounds=1, **settings), stage=stage, cast=cast)
    play(match, MemoryJournal(match))
    return match


def test_every_round_has_the_defenders_leak_where_the_world_lists_harm():
    match = played(evaluate__leak_attacks=2)
    assert [record.leak.attacks for record in match.rounds] == [3, 3]
    assert match.cast.defender.policy.rowed == [3, 3] and match.cast.defender.engine.slept >= 2
    assert [record.leak for record in played(evaluate__leak_attacks=0).rounds] == [None, None]


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
