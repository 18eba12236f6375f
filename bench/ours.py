"""One GRPO step of this repository, timed by phase, as `learn.phase.run_phase` makes it."""

from __future__ import annotations

from typing import Any

from work import Work

from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.grpo import grpo_step
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Group, Prompt, Reward, Sampling


class OurStep:
    """Calling it makes a step. The learning rate is 0, so every step does the same work."""

    def __init__(self, work: Work, model: Any) -> None:
        self.work, self.model = work, model
        self.cases = work.cases
        self.images = work.pictures()
        self.optimizer = make_optimizer(model, 0.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.metrics: dict[str, float] = {}
        self.prepare()

    def prepare(self) -> None:
        self.codec = self.work.codec(self.images)
        self.prompts = self.codec.encode(self.cases)
        self.engine = TorchEngine(self.model, self.codec)
        self.policy = Policy(self.model, self.codec)

    def rollout(self) -> list[list[Completion]]:
        config = self.work.config
        sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
        return self.engine.generate(
            self.prompts, n=self.work.group_size, sampling=sampling, seed="bench"
        )

    def train(self, groups: list[Group]) -> None:
        self.metrics = grpo_step(self.policy, self.optimizer, groups, config=self.work.config)

    def __call__(self) -> dict[str, float]:
        """Seconds by phase; `prepare` is prompts, pictures and rewards."""
        begin = self.work.clock()
        self.prepare()
        prepared = self.work.clock()
        replies = self.rollout()
        rolled = self.work.clock()
        groups = grouped(self.work, self.prompts, replies)
        scored = self.work.clock()
        self.train(groups)
        self.engine.sync(self.model)
        end = self.work.clock()
        return {
            "prepare": prepared - begin + scored - rolled,
            "rollout": rolled - prepared,
            "train": end - scored,
            "step": end - begin,
        }


def grouped(work: Work, prompts: list[Prompt], replies: list[list[Completion]]) -> list[Group]:
    return [
        Group(
            prompt=prompt,
            completions=tuple(row),
            rewards=tuple(Reward(total=work.reward(i, j)) for j in range(len(row))),
        )
        for i, (prompt, row) in enumerate(zip(prompts, replies, strict=True))
    ]
