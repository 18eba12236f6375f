"""The GRPO loop of both roles, with a real model and engine and the smallest possible role."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import pytest
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.game.player import Player
from sectow_fast.learn.learners import GRPOLearner
from sectow_fast.learn.optim import lr_at, make_optimizer
from sectow_fast.learn.phase import NonFiniteRun, mean_parts, run_phase, scored_groups
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.ranks import Ranks
from sectow_fast.types import (
    Completion,
    DefendTask,
    Event,
    Group,
    Prompt,
    Reward,
    Sampling,
    Scores,
    UserError,
)


class EveryOther:
    """Rewards every second completion; optionally spoils the weights after a step."""

    name = "defender"
    stopped = False
    last_good = None
    entropy_coef = None
    rate = 1.0

    def __init__(self, stage, model=None, stop_at=None):
        self.stage, self.model, self.stop_at = stage, model, stop_at
        self.seen = []

    def tasks(self, step, *, turn=0, count=None):
        cases = self.stage.world.train_cases("harmless")[step : step + 3]
        return [DefendTask(case=case, source="harmless", place=i) for i, case in enumerate(cases)]

    def scorer(self, step, tasks, *, turn=0):
        return EveryOtherScorer(self, step, tasks)

    def watch(self, step, measures):
        self.seen.append(measures)
        if self.model is not None:
            with torch.no_grad():
                self.model.model.language_model.norm.weight[0] = 1.0
        self.stopped = step == self.stop_at
        event = Event(kind="k", message="m", round=1, phase="defend", step=step)
        return [event], {"watched": 1.0}


class EveryOtherScorer:
    def __init__(self, role, step, tasks):
        self.role, self.step, self.tasks, self.taken = role, step, tasks, {}

    def take(self, i, j, completion):
        self.taken[i, j] = completion

    def finish(self):
        if self.role.model is not None:
            # Spoilt between rollout and update, as an overflow in the backward pass would be.
            with torch.no_grad():
                self.role.model.model.language_model.norm.weight[0] = torch.nan
        assert sorted(self.taken) == [(i, j) for i in range(len(self.tasks)) for j in range(4)]
        row = [Reward(total=float(j % 2), parts={"odd": j % 2}) for j in range(4)]
        written = sum(len(one.ids) for one in self.taken.values())
        return Scores(
            rewards=[row for _ in self.tasks],
            measures={"scored_well": 0.5, "step": self.step, "written": written},
        )


class Watched(TorchEngine):
    """The real engine, which also notes how it was asked."""

    def __init__(self, *given):
        super().__init__(*given)
        self.asked = []

    def submit(self, prompts, *, n, sampling, seed):
        self.asked.append((len(prompts), n, sampling, seed))
        return super().submit(prompts, n=n, sampling=sampling, seed=seed)


def play(stage, model, role, start=0, steps=6, skipped=0, engine=None, **more):
    found = []
    player = Player(
        model=model,
        engine=engine or TorchEngine(model, stage.codec),
        codec=stage.codec,
        policy=Policy(model, stage.codec),
    )
    config = GRPOConfig(
        steps=steps, prompts=3, group_size=4, max_new_tokens=3, temperature=0.8, lr=1e-3, **more
    )
    optimizer = make_optimizer(model, 1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    run_phase(
        role,
        player=player,
        learner=GRPOLearner(policy=player.policy, optimizer=optimizer, config=config),
        config=config,
        key="test",
        round=1,
        phase="defend",
        start=start,
        on_step=lambda record, events: found.append((record, events)),
        skipped=skipped,
    )
    return found


def test_steps_are_logged_with_their_parts_and_a_role_can_stop(stage, model):
    role = EveryOther(stage, stop_at=2)
    found = play(stage, model, role)
    assert [(r.round, r.phase, r.step, r.steps) for r, _ in found] == [
        (1, "defend", step, 6) for step in range(3)
    ]
    record, events = found[0]
    assert record.reward == {"total": 0.5, "odd": 0.5} and [e.kind for e in events] == ["k"]
    assert set(record.seconds) == {"rollout", "score", "train", "watch"}
    assert min(record.seconds.values()) >= 0
    measures = record.measures
    assert measures["watched"] == 1.0 and measures["scored_well"] == 0.5
    assert measures["skipped_in_row"] == 0 and measures["tokens_per_second"] > 0
    assert measures["lr"] == lr_at(0, 6, 1e-3, 10, 0.6) == pytest.approx(1e-4)
    assert found[2][0].measures["lr"] == pytest.approx(3e-4)
    # The role sees what the update measured, and its own measures.
    assert role.seen[0]["grad_norm"] == measures["grad_norm"] > 0
    assert role.seen[0]["scored_well"] == 0.5


def test_the_rollout_is_asked_with_the_settings_and_a_seed_per_step(stage, model):
    engine = Watched(model, stage.codec)
    found = play(stage, model, EveryOther(stage), steps=2, engine=engine)
    sampling = Sampling(temperature=0.8, max_new_tokens=3)
    assert engine.asked == [(3, 4, sampling, f"test/rollout/{step}") for step in (0, 1)]
    # The scorer knows its step, and is told of the completions that were written.
    assert [record.measures["step"] for record, _ in found] == [0, 1]
    assert all(record.measures["written"] == record.measures["tokens"] for record, _ in found)


def test_the_seconds_are_parts_of_the_step_and_the_rate_is_of_those_that_make_an_update(
    stage, model
):
    begin = time.perf_counter()
    found = play(stage, model, EveryOther(stage), steps=2)
    elapsed = time.perf_counter() - begin
    assert sum(sum(record.seconds.values()) for record, _ in found) <= elapsed
    for record, _ in found:
        spent = sum(record.seconds[name] for name in ("rollout", "score", "train"))
        rate = record.measures["tokens"] / spent
        assert record.measures["tokens_per_second"] == pytest.approx(rate, rel=1e-6)


def test_a_resumed_phase_plays_the_steps_that_are_left(stage, model):
    found = play(stage, model, EveryOther(stage), start=4)
    assert [record.step for record, _ in found] == [4, 5]


def test_a_role_that_has_stopped_plays_nothing(stage, model):
    role = EveryOther(stage)
    role.stopped = True
    assert play(stage, model, role) == []


def test_three_non_finite_updates_in_a_row_stop_with_the_batch(stage, model):
    with pytest.raises(NonFiniteRun, match=r"step 2: .* not finite 3 times") as caught:
        play(stage, model, EveryOther(stage, model))
    assert len(caught.value.groups) == 3


def test_skips_before_a_resume_count(stage, model):
    with pytest.raises(NonFiniteRun, match="step 0: "):
        play(stage, model, EveryOther(stage, model), skipped=2)


def test_the_update_takes_the_entropy_bonus_of_its_role(stage, model):
    def trained(coef, by_role):
        mine, role = copy.deepcopy(model), EveryOther(stage)
        role.entropy_coef = by_role
        play(stage, mine, role, steps=1, loss={"entropy_coef": coef})
        return torch.cat([one.detach().flatten() for one in mine.parameters()])

    assert torch.equal(trained(0.0, 0.5), trained(0.5, None))
    assert torch.equal(trained(0.5, 0.0), trained(0.0, None))
    assert not torch.equal(trained(0.0, 0.5), trained(0.0, None))


def test_the_update_takes_its_roles_part_of_the_learning_rate(stage, model):
    role, rates = EveryOther(stage), []
    for role.rate in (1.0, 0.5):
        records = play(stage, copy.deepcopy(model), role, steps=2, warmup=0)
        rates.append([record.measures["lr"] for record, _ in records])
    assert rates[1] == [one / 2 for one in rates[0]] and rates[0][0] == 1e-3


def groups_with(*rewards, weights=()):
    prompt = Prompt(case_id="case-9", ids=(1,))
    one = Completion(ids=(1,), logprobs=(0.0,), finish_reason="stop")
    scores = Scores(rewards=[list(rewards)], measures={}, weights=weights)
    return scored_groups([prompt], [[one] * len(rewards)], scores)


def test_a_nan_reward_stops_with_its_case():
    bad = Reward(total=float("nan"), parts={"safe": float("nan")})
    with pytest.raises(UserError, match=r"case 'case-9', completion 1: found nan"):
        groups_with(Reward(total=1.0), bad)


def test_a_group_weighs_what_its_role_says_and_one_by_default():
    good = Reward(total=1.0)
    assert groups_with(good)[0].weight == 1.0
    assert groups_with(good, weights=(3.0,))[0].weight == 3.0


def test_means_are_over_the_completions_that_have_the_part():
    groups = groups_with(
        Reward(total=1.0, parts={"safe": 1.0}), Reward(total=0.0, parts={"right": 0.5})
    )
    assert isinstance(groups[0], Group)
    assert mean_parts(groups) == {"total": 0.5, "safe": 1.0, "right": 0.5}
    assert mean_parts([]) == {}


@dataclass(frozen=True, kw_only=True)
class Second(Ranks):
    """A rank that is told what another one made."""

    def told(self, make):
        return 7


@pytest.mark.parametrize(("cut", "live"), [("keep", 2), ("mask", 1)])
def test_what_is_live_is_what_would_be_learnt_from_and_the_first_rank_says_it(
    stage, model, cut, live
):
    config = GRPOConfig(cut=cut)
    prompt = Prompt(case_id="case", ids=(1,))
    rewards = (Reward(total=0.0), Reward(total=1.0))
    groups = [
        Group(
            prompt=prompt,
            completions=(Completion(ids=(1,), logprobs=(0.0,), finish_reason=reason),) * 2,
            rewards=given,
        )
        for reason, given in (("stop", rewards), ("length", rewards), ("stop", rewards[:1] * 2))
    ]
    policy = Policy(model, stage.codec)
    learner = GRPOLearner(policy=policy, optimizer=None, config=config)
    assert learner.live(groups) == live
    policy.ranks = Second()
    assert learner.live(groups) == 7
