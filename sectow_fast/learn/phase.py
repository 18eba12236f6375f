"""One GRPO phase for either role: rollout, score, train, watch. The only trainer loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sectow_fast.config import GRPOConfig
from sectow_fast.types import (
    Case,
    Completion,
    Event,
    Group,
    Reward,
    RoleName,
    Sampling,
    UserError,
)

SKIPS_ALLOWED = 2  # one more in a row stops the run


class Role(Protocol):
    """What differs between attacker and defender."""

    name: RoleName
    stopped: bool

    def tasks(self, step: int) -> list[Case]: ...

    def score(
        self, step: int, cases: Sequence[Case], groups: Sequence[Sequence[Completion]]
    ) -> tuple[list[list[Reward]], dict[str, float]]: ...

    def watch(
        self, step: int, row: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]: ...


def checked_groups(
    cases: Sequence[Case], prompts: Sequence[Any], replies: Any, rewards: Any
) -> list[Group]:
    """Groups for the update; UserError where a reward is not a finite number."""
    groups = []
    for case, prompt, completions, row in zip(cases, prompts, replies, rewards, strict=True):
        for j, reward in enumerate(row):
            reward.check(case_id=case.id, completion=j)
        groups.append(Group(prompt=prompt, completions=tuple(completions), rewards=tuple(row)))
    return groups


def mean_parts(groups: Sequence[Group]) -> dict[str, float]:
    """Mean of the total and of every part, over the completions that have the part."""
    sums: dict[str, list[float]] = {"total": []}
    for group in groups:
        for reward in group.rewards:
            sums["total"].append(reward.total)
            for name, value in reward.parts.items():
                sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items() if values}


def run_phase(
    role: Role,
    *,
    player: Any,
    optimizer: Any,
    config: GRPOConfig,
    key: str,
    start: int,
    on_step: Callable[[int, dict[str, Any], list[Event]], None],
    reference: Any = None,
    skipped: int = 0,
) -> None:
    """Steps `start`..`config.steps` of GRPO on `player.policy`; `on_step` logs and saves.

    key names the phase and seeds every draw, so a step depends on nothing but its number and the
    weights. Three skipped (non-finite) steps in a row raise NonFiniteRun; `skipped` is how
    many a resumed run had behind it.
    """
    from sectow_fast.learn.grpo import grpo_step
    from sectow_fast.learn.optim import lr_at, set_lr
    from sectow_fast.learn.placement import at_work

    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    for step in range(start, config.steps):
        if role.stopped:
            return
        lr = lr_at(step, config.steps, config.lr, config.warmup, config.decay_from)
        set_lr(optimizer, lr)
        begin = time.perf_counter()
        cases = role.tasks(step)
        prompts = player.codec.encode(cases)
        replies = player.engine.generate(
            prompts, n=config.group_size, sampling=sampling, seed=f"{key}/rollout/{step}"
        )
        rolled = time.perf_counter()
        rewards, measures = role.score(step, cases, replies)
        groups = checked_groups(cases, prompts, replies, rewards)
        scored = time.perf_counter()
        player.engine.sleep()  # the device is the trainer's until the next rollout
        with at_work(player.policy, optimizer):
            metrics = grpo_step(
                player.policy, optimizer, groups, config=config, reference=reference
            )
        player.engine.sync(player.model)
        trained = time.perf_counter()
        skipped = skipped + 1 if metrics.get("skipped") else 0
        row = {"lr": lr, "skipped_in_row": skipped} | metrics | measures
        events, more = role.watch(step, row)
        watched = time.perf_counter()
        row |= more | {
            "reward": mean_parts(groups),
            "seconds": {
                "rollout": rolled - begin,
                "score": scored - rolled,
                "train": trained - scored,
                "watch": watched - trained,
            },
            "tokens_per_second": metrics["tokens"] / (trained - begin),
        }
        on_step(step, row, events)
        if skipped > SKIPS_ALLOWED:
            raise NonFiniteRun(step=step, groups=groups)


class NonFiniteRun(UserError):
    """Three updates in a row had a non-finite loss or gradient. `groups` is the last batch."""

    def __init__(self, *, step: int, groups: Sequence[Group]) -> None:
        super().__init__(
            f"step {step}: loss or gradients were not finite {SKIPS_ALLOWED + 1} times in a row;"
            " lower the learning rate, or look at failed-batch.json in the run folder"
        )
        self.groups = groups
