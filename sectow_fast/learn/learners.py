"""A player's training as a phase sees it: one update at a time, with the optimizer kept inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.learn.grpo import advantages_of, grpo_step, learnt_from
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

    def live(self, groups: Sequence[Group]) -> int:
        """See `phase.Learner`. Rewards are agreed on before; what is made of them is the first
        rank's too, since the ranks go on together or not at all."""
        return self.policy.ranks.told(
            lambda: len(learnt_from(groups, *advantages_of(groups, self.config), self.config)[0])
        )

    def update(
        self, groups: Sequence[Group], *, lr: float, entropy_coef: float | None = None
    ) -> Mapping[str, float]:
        set_lr(self.optimizer, lr)
        config = self.config
        if entropy_coef is not None:
            loss = config.loss.model_copy(update={"entropy_coef": entropy_coef})
            config = config.model_copy(update={"loss": loss})
        metrics = grpo_step(
            self.policy, self.optimizer, groups, config=config, reference=self.reference
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
