"""What a batch teaches: several updates, bounds against the engine, cut replies, the normalizer."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from pydantic import ValidationError
from test_grpo import CONFIG, rolled

from sectow_fast.config import Config, GRPOConfig
from sectow_fast.game.monitors import EntropyFloor
from sectow_fast.learn.cuts import cut_share, overlong, penalised
from sectow_fast.learn.grpo import grpo_step, learnt_from, normalizer_of
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.ranks import ALONE
from sectow_fast.learn.sums import StepSums
from sectow_fast.players import check_settings
from sectow_fast.types import Completion, UserError


def stepped(stage, model, groups, *, lr=0.0, **settings):
    config = GRPOConfig.model_validate(CONFIG.model_dump() | settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return grpo_step(Policy(model, stage.codec), optimizer, groups, config=config)


def told(groups, change):
    """The groups with the engine's log-probs of completion j of group i moved by change(i, j)."""
    return [
        dataclasses.replace(
            group,
            completions=tuple(
                dataclasses.replace(
                    one, logprobs=(one.logprobs[0] + change(i, j), *one.logprobs[1:])
                )
                for j, one in enumerate(group.completions)
            ),
        )
        for i, group in enumerate(groups)
    ]


@pytest.mark.parametrize("budget", [64, 16384])
def test_later_updates_are_clipped_against_the_log_probs_before_the_first(stage, model, budget):
    groups = rolled(stage, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = {"clip_low": 0.01, "clip_high": 0.01}
    given = {"lr": 0.3, "loss": loss, "tokens_per_batch": budget, "mismatch_max": 1e9}
    once = stepped(stage, model, groups, **given)
    assert once["clip_low"] == once["clip_high"] == 0
    model.load_state_dict(before)
    twice = stepped(stage, model, groups, num_iterations=2, **given)
    assert twice["clip_low"] + twice["clip_high"] > 0.1
    assert twice["tokens_trained"] == 2 * once["tokens_trained"]
    # The engine is compared with the weights that it drew from, not with the moved ones.
    assert twice["mismatch_max"] < 1e-4


def test_one_token_over_the_bound_is_masked_and_counted_and_many_stop_the_run(stage, model):
    groups = rolled(stage, model)
    tokens = sum(len(one.ids) for group in groups for one in group.completions)
    clean = stepped(stage, model, groups)
    one = told(groups, lambda i, j: -6.0 * (i == j == 0))  # alone a KL of 397
    found = stepped(stage, model, one)
    assert found["masked_mismatch"] == pytest.approx(1 / tokens)
    assert found["mismatch_max"] == pytest.approx(6.0, rel=1e-3)
    assert found["grad_norm"] != clean["grad_norm"]
    with pytest.raises(UserError, match="tokens masked"):
        stepped(stage, model, told(groups, lambda i, j: -6.0))
    with pytest.raises(UserError, match="mismatch"):
        stepped(stage, model, one, mismatch_token=None)


def test_tokens_outside_the_band_are_counted_and_have_no_loss(stage, model):
    groups = told(rolled(stage, model), lambda i, j: 0.5 * (j == 0))
    tokens = sum(len(one.ids) for group in groups for one in group.completions)
    plain = stepped(stage, model, groups)
    found = stepped(stage, model, groups, loss={"band_low": 0.8, "band_high": 1.2})
    assert found["masked_band"] == pytest.approx(len(groups) / tokens)
    assert plain["masked_band"] == 0 and found["loss"] != plain["loss"]
    # Which side is which: these tokens are less likely to the trainer than to the engine.
    under = stepped(stage, model, groups, loss={"band_low": 0.8})
    over = stepped(stage, model, groups, loss={"band_high": 1.2})
    assert under["masked_band"] == found["masked_band"] and under["loss"] == found["loss"]
    assert over["masked_band"] == 0 and over["loss"] == plain["loss"]
    groups = told(rolled(stage, model), lambda i, j: -0.5 * (j == 0))
    assert stepped(stage, model, groups, loss={"band_low": 0.8})["masked_band"] == 0
    over = stepped(stage, model, groups, loss={"band_high": 1.2})
    assert over["masked_band"] == found["masked_band"]


def test_a_reply_outside_its_bounds_is_left_out_as_if_it_taught_nothing(stage, model):
    groups = rolled(stage, model)
    odd = told(groups, lambda i, j: -1.5 * (j == 0))
    size = max(len(one.ids) for group in groups for one in group.completions)
    found = stepped(stage, model, odd, sequence_high=math.exp(1.4 / size), mismatch_max=1e9)
    assert found["replies_left_out"] == len(groups)
    other = stepped(
        stage, model, odd, sequence_high=math.exp(1.6), sequence_ratio="product", mismatch_max=1e9
    )
    assert other["replies_left_out"] == 0
    assert stepped(stage, model, odd, sequence_low=0.5, mismatch_max=1e9)["replies_left_out"] == 0
    assert found["grad_norm"] != other["grad_norm"]
    # The same as where that reply alone was cut, and cut replies have no loss.
    alone = [
        dataclasses.replace(
            group,
            completions=tuple(
                dataclasses.replace(one, finish_reason="stop" if j else "length")
                for j, one in enumerate(group.completions)
            ),
        )
        for group in groups
    ]
    masked = stepped(stage, model, alone, cut="mask")
    assert found["grad_norm"] == pytest.approx(masked["grad_norm"], rel=1e-4)
    low = told(groups, lambda i, j: 1.5 * (j == 0))
    under = stepped(stage, model, low, sequence_low=math.exp(-1.4 / size), mismatch_max=1e9)
    assert under["replies_left_out"] == len(groups)
    assert under["grad_norm"] == pytest.approx(masked["grad_norm"], rel=1e-4)


def test_a_reply_of_one_token_is_held_to_the_bounds_too(stage, model):
    """Its mean is that token's own ratio, and not half of it."""
    groups = [
        dataclasses.replace(
            group,
            completions=tuple(
                dataclasses.replace(one, ids=one.ids[:1], logprobs=one.logprobs[:1])
                for one in group.completions
            ),
        )
        for group in rolled(stage, model)
    ]
    odd = told(groups, lambda i, j: -1.5 * (j == 0))
    for bound, left in ((1.4, len(groups)), (1.6, 0)):
        found = stepped(stage, model, odd, sequence_high=math.exp(bound), mismatch_max=1e9)
        assert found["replies_left_out"] == left


def test_momentum_moves_nothing_where_every_token_is_left_out(stage, model):
    groups = rolled(stage, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    policy = Policy(model, stage.codec)
    grpo_step(policy, optimizer, groups, config=CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bounds = {"sequence_low": 1e3, "sequence_high": 1e4, "mismatch_max": 1e9}
    found = grpo_step(policy, optimizer, groups, config=CONFIG.model_copy(update=bounds))
    assert found["grad_norm"] == 0 and found["skipped"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cut_replies_have_no_loss_or_pay(stage, model):
    groups = rolled(stage, model)
    cut = [one.finish_reason == "length" for group in groups for one in group.completions]
    assert sum(cut) > 0
    signal, rows = [True] * len(groups), [[float(j) for j in range(4)] for _ in groups]
    kept, theirs = learnt_from(groups, rows, signal, GRPOConfig(cut="mask"))
    left = [one for group in kept for one in group.completions]
    assert len(left) == len(cut) - sum(cut) == sum(map(len, theirs))
    assert all(one.finish_reason == "stop" for one in left)
    assert cut_share(groups) == sum(cut) / len(cut) < 1
    whole, _ = learnt_from(groups, rows, [False, *signal[1:]], GRPOConfig())
    assert whole == groups[1:]
    assert normalizer_of(whole, CONFIG) < normalizer_of(groups, CONFIG)
    paid = penalised(groups, GRPOConfig(cut="penalty", cut_penalty=0.5))
    for group, before in zip(paid, groups, strict=True):
        for reward, plain, one in zip(
            group.rewards, before.rewards, before.completions, strict=True
        ):
            price = 0.5 * (one.finish_reason == "length")
            assert reward.total == plain.total - price and reward.parts["cut"] == -price
    assert penalised(groups, CONFIG) == groups


def test_the_price_of_length_rises_over_the_last_tokens():
    config = GRPOConfig(max_new_tokens=8, cut_buffer=4, cut="penalty")

    def price(size, reason="stop"):
        done = Completion(ids=(1,) * size, logprobs=(0.0,) * size, finish_reason=reason)
        return overlong(done, config)

    assert [price(size) for size in (3, 4, 5, 6, 8)] == [0.0, 0.0, 0.25, 0.5, 1.0]
    assert price(5, "length") == 1.0


def test_the_loss_may_be_a_mean_over_what_is_learnt_from(stage, model):
    groups = rolled(stage, model, reward=lambda i, j: float(j % 2) if i < 3 else 1.0)
    written, live = (stepped(stage, model, groups, normalize_by=by) for by in ("written", "live"))
    share = normalizer_of(groups[:3], CONFIG) / normalizer_of(groups, CONFIG)
    assert live["grad_norm"] == pytest.approx(written["grad_norm"] / share, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sequence_low": 2.0, "sequence_high": 1.0}, "sequence_low 2.0 is not under"),
        ({"cut_buffer": 9}, "cut_buffer 9 is over max_new_tokens 8"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"cut": "drop"}, "cut"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, words):
    with pytest.raises(ValidationError, match=words):
        GRPOConfig(**settings)


def test_a_reference_is_asked_once_per_row_whatever_the_updates(stage, model):
    groups = rolled(stage, model)
    asked = []

    class Reference(Policy):
        def forward(self, row, terms=None, **more):
            asked.append(row)
            return super().forward(row, terms, **more)

    reference = Reference(copy.deepcopy(model), stage.codec)
    config = GRPOConfig.model_validate(
        CONFIG.model_dump() | {"loss": {"kl_coef": 0.5}, "mismatch_max": 1e9}
    )
    policy = Policy(model, stage.codec)
    rows = 0
    for updates in (1, 2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        several = config.model_copy(update={"num_iterations": updates})
        found = grpo_step(policy, optimizer, groups, config=several, reference=reference)
        rows = rows or len(asked)
        assert len(asked) == rows and rows > 0
        asked.clear()
    assert found["kl"] > 0  # the weights have moved away from the reference


@pytest.mark.parametrize("bounds", [{"band_low": 8.0}, {"band_high": 0.1}])
def test_a_band_that_mismatch_token_leaves_empty_is_refused_before_a_run(bounds):
    config = Config(defend={"loss": bounds})
    with pytest.raises(UserError, match=r"defend\.loss\.band_low .*with defend\.mismatch_token"):
        check_settings(config)
    check_settings(Config(defend={"loss": bounds, "mismatch_token": None}))


def test_a_step_in_which_nothing_was_scored_has_no_entropy():
    # 0 would be the entropy of a policy that is certain, and a floor under it would act.
    sums = StepSums(config=CONFIG, band=(-1.0, 1.0), device=torch.device("cpu"))
    found = sums.result(ALONE)
    assert math.isnan(found["entropy"]) and found["kl"] == 0
    floor = EntropyFloor(config=GRPOConfig(entropy_min=1.0))
    assert floor.judge(found["entropy"]) == "none" and floor.coef is None
    assert floor.judge(0.0) == "raise"
