"""The one GRPO loop, with a real model and engine and the smallest possible role."""

from __future__ import annotations

import pytest
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.game.player import Player
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.phase import NonFiniteRun, run_phase
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Reward


class EveryOther:
    """Rewards every second completion; optionally spoils the weights after a step."""

    name = "defender"
    stopped = False

    def __init__(self, stage, model=None, stop_at=None):
        self.stage, self.model, self.stop_at = stage, model, stop_at

    def tasks(self, step):
        return list(self.stage.world.train_cases("harmless")[step : step + 3])

    def score(self, step, cases, groups):
        if self.model is not None:
            # Spoilt between rollout and update, as an overflow in the backward pass would be.
            with torch.no_grad():
                self.model.model.language_model.norm.weight[0] = torch.nan
        return [[Reward(total=float(j % 2)) for j in range(len(g))] for g in groups], {}

    def watch(self, step, row):
        if self.model is not None:
            with torch.no_grad():
                self.model.model.language_model.norm.weight[0] = 1.0
        self.stopped = step == self.stop_at
        return [], {"seen": 1.0}


def play(stage, model, role, start=0, steps=6):
    rows = []
    run_phase(
        role,
        player=Player(
            model=model,
            engine=TorchEngine(model, stage.codec),
            codec=stage.codec,
            policy=Policy(model, stage.codec),
        ),
        optimizer=make_optimizer(model, 1e-3, betas=(0.9, 0.95), weight_decay=0.0),
        config=GRPOConfig(steps=steps, prompts=3, group_size=4, max_new_tokens=3),
        key="test",
        start=start,
        on_step=lambda step, row, events: rows.append((step, row)),
    )
    return rows


def test_steps_are_logged_with_their_parts_and_a_role_can_stop(stage, model):
    rows = play(stage, model, EveryOther(stage, stop_at=2))
    assert [step for step, _ in rows] == [0, 1, 2]
    row = rows[0][1]
    assert row["seen"] == 1.0 and row["reward"] == {"total": 0.5}
    assert set(row["seconds"]) == {"rollout", "score", "train", "watch"}


def test_three_non_finite_updates_in_a_row_stop_with_the_batch(stage, model):
    with pytest.raises(NonFiniteRun, match="not finite 3 times") as caught:
        play(stage, model, EveryOther(stage, model))
    assert len(caught.value.groups) == 3
