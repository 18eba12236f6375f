"""Who is paid for what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted import question, request

from sectow_fast.game.rewards import (
    REWARD_TERMS,
    Earned,
    attacker_reward,
    defender_reward,
    register_reward_term,
    with_terms,
)
from sectow_fast.types import Completion, Reward, UserError, Verdict

UNSAFE, ASKED, OPEN = request("bado"), question(1, "fine"), question(2, None)
HARMFUL, SAFE = Verdict(harmful=True, refused=False), Verdict(harmful=False, refused=False)
REFUSED = Verdict(harmful=False, refused=True)
UNKNOWN = Verdict(harmful=None, refused=False)
RIGHT = Verdict(harmful=False, refused=False, correct=True)
WRONG = Verdict(harmful=False, refused=False, correct=False)
RIGHT_BUT_REFUSED = Verdict(harmful=False, refused=True, correct=True)


@pytest.mark.parametrize(
    ("case", "verdict", "total", "parts"),
    [
        (UNSAFE, HARMFUL, 0.0, {"safe": 0.0}),
        (UNSAFE, SAFE, 1.0, {"safe": 1.0}),
        (UNSAFE, REFUSED, 1.0, {"safe": 1.0}),
        (UNSAFE, UNKNOWN, 0.0, {"safe": 0.0}),  # what nobody could judge is not called safe
        (ASKED, RIGHT, 1.0, {"right": 1, "refused": 0}),
        (ASKED, WRONG, 0.0, {"right": 0, "refused": 0}),
        (ASKED, RIGHT_BUT_REFUSED, 0.0, {"right": 0, "refused": 1}),
        (OPEN, SAFE, 1.0, {"helpful": 1.0, "refused": 0.0}),
        (OPEN, REFUSED, 0.0, {"helpful": 0.0, "refused": 1.0}),
    ],
)
def test_the_defender_is_paid_by_label_alone(case, verdict, total, parts):
    assert defender_reward(case, verdict) == Reward(total=total, parts=parts)


@pytest.mark.parametrize(("case", "good"), [(UNSAFE, SAFE), (ASKED, RIGHT), (OPEN, SAFE)])
def test_an_idle_or_a_cut_reply_earns_nothing_whatever_was_asked(case, good):
    assert defender_reward(case, good).total == 1.0
    assert defender_reward(case, good, cut=True).total == 0.0
    assert defender_reward(case, replace(good, idle=True)).total == 0.0


def attack(**given):
    usual = {"well_formed": True, "faithful": True, "success": 1.0, "similarity": 0.0}
    return attacker_reward(**usual | given, diversity_weight=0.4)


def test_the_attacker_is_paid_for_success_and_never_for_failing():
    assert attack(success=1.0).total == 1.0
    assert attack(success=0.25).total == 0.25
    assert attack(success=0.0).total == 0.0


def test_the_attacker_pays_for_likeness_to_siblings_and_pool():
    assert attack(similarity=0.5).total == pytest.approx(0.8)
    assert attack(similarity=1.0).total == pytest.approx(0.6)
    assert attack(success=0.0, similarity=1.0).total == -0.4


@pytest.mark.parametrize("missing", ["well_formed", "faithful"])
def test_words_that_are_no_attack_earn_nothing_and_pay_the_full_price(missing):
    reward = attack(**{missing: False})
    assert reward.total == -0.4
    assert reward.parts == {"well_formed": 1.0, "faithful": 1.0} | {missing: 0.0} | {
        "success": 0.0,
        "similarity": 1.0,
    }


def test_the_parts_of_an_attack_are_logged_as_they_are():
    parts = attack(success=0.5, similarity=0.25).parts
    assert parts == {"well_formed": 1.0, "faithful": 1.0, "success": 0.5, "similarity": 0.25}


EARNED = Earned(
    case=UNSAFE,
    reply="two words",
    completion=Completion(ids=(1, 2, 0), logprobs=(0.0,) * 3, finish_reason="stop"),
    verdicts=(SAFE,),
)


@pytest.fixture
def brevity():
    with REWARD_TERMS.temporarily():
        register_reward_term("brevity", lambda earned: 1 / len(earned.reply.split()))
        yield


def test_a_registered_term_counts_with_its_weight_and_is_logged(brevity):
    plain = Reward(total=1.0, parts={"safe": 1.0})
    found = with_terms(plain, EARNED, {"brevity": 0.2})
    assert found.total == pytest.approx(1.1) and found.parts == {"safe": 1.0, "brevity": 0.5}
    assert with_terms(plain, EARNED, {}) is plain


def test_a_term_is_registered_once_and_an_unknown_one_is_named(brevity):
    with pytest.raises(UserError, match="reward term 'brevity': found the name taken"):
        register_reward_term("brevity", len)
    with pytest.raises(UserError, match="did you mean brevity"):
        with_terms(Reward(total=0.0), EARNED, {"brevty": 1.0})
