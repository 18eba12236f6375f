"""A player's training as a phase sees it: one update at a time, with the optimizer kept inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import set_lr
from sectow_fast.learn.placement import give_back
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.sft import sft_step
from sectow_fast.types import Group, Prompt, Scores


@dataclass(frozen=True, kw_only=True)
class GRPOLearner:
    """`learn.phase.Learner` by real updates."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    config: GRPOConfig
    reference: Policy | None = None

    def agreed(self, scores: Scores) -> Scores:
        """See `phase.Learner`: the first rank's."""
        return self.policy.ranks.told(lambda: scores)

    def update(self, groups: Sequence[Group], *, lr: float) -> Mapping[str, float]:
        set_lr(self.optimizer, lr)
        metrics = grpo_step(
            self.policy, self.optimizer, groups, config=self.config, reference=self.reference
        )
        give_back(self.policy.device)  # the engine wakes next
        return metrics


@dataclass(frozen=True, kw_only=True)
class SFTPupil:
    """`game.coldstart.Pupil` by real updates."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    tokens_per_batch: int

    def teach(
        self, pairs: Sequence[tuple[Prompt, tuple[int, ...]]], *, lr: float
    ) -> Mapping[str, float]:
        set_lr(self.optimizer, lr)
        return sft_step(self.policy, self.optimizer, pairs, tokens_per_batch=self.tokens_per_batch)
