"""One GRPO phase for either role: rollout, score, update, watch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.engine.protocol import Engine
from sectow_fast.learn.cuts import penalised
from sectow_fast.learn.optim import lr_at
from sectow_fast.protocols import Codec
from sectow_fast.records import StepRecord
from sectow_fast.types import (
    Completion,
    Event,
    Group,
    Prompt,
    RoleName,
    Sampling,
    Scores,
    Task,
    UserError,
)

SKIPS_ALLOWED = 2  # one more in a row stops the run
T = TypeVar("T", bound=Task)


class Scorer(Protocol):
    """Takes the completions of one step as they finish, and says what they earned."""

    def take(self, i: int, j: int, completion: Completion) -> None:
        """Completion j of task i is finished."""
        ...

    def finish(self) -> Scores: ...


class Role(Protocol, Generic[T]):
    """What differs between attacker and defender."""

    name: RoleName
    stopped: bool
    last_good: dict[str, torch.Tensor] | None  # weights that a monitor may go back to

    def tasks(self, step: int) -> list[T]: ...

    def scorer(self, step: int, tasks: Sequence[T]) -> Scorer: ...

    def watch(
        self, step: int, measures: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]:
        """Look at the step's measures: (what was seen or done, more measures to log)."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed phase needs beside weights, as JSON; `restore` takes it back."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Learner(Protocol):
    """One policy update from a batch of groups; "skipped" 1 where it was not finite."""

    def agreed(self, scores: Scores) -> Scores:
        """The scores that count on every rank: a registered term may answer each otherwise."""
        ...

    def update(self, groups: Sequence[Group], *, lr: float) -> Mapping[str, float]: ...


class PhasePlayer(Protocol):
    """The player whose phase it is (game/player.py)."""

    model: Any
    engine: Engine
    codec: Codec


def roll_out(
    engine: Engine,
    prompts: Sequence[Prompt],
    scorer: Scorer,
    *,
    n: int,
    sampling: Sampling,
    seed: str,
) -> list[list[Completion]]:
    """n completions of each prompt; the scorer is told of each one as it finishes."""
    found: dict[tuple[int, int], Completion] = {}
    stream = engine.submit(prompts, n=n, sampling=sampling, seed=seed)
    with contextlib.closing(stream):
        for i, j, completion in stream.each():
            found[i, j] = completion
            scorer.take(i, j, completion)
    return [[found[i, j] for j in range(n)] for i in range(len(prompts))]


def scored_groups(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]], scores: Scores
) -> list[Group]:
    """Groups for the update; UserError where a reward is not a finite number."""
    groups = []
    for prompt, row, rewards in zip(prompts, completions, scores.rewards, strict=True):
        for j, reward in enumerate(rewards):
            reward.check(case_id=prompt.case_id, completion=j)
        groups.append(Group(prompt=prompt, completions=tuple(row), rewards=tuple(rewards)))
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
    player: PhasePlayer,
    learner: Learner,
    config: GRPOConfig,
    key: str,
    round: int,
    phase: str,
    start: int,
    on_step: Callable[[StepRecord, Sequence[Event]], None],
    skipped: int = 0,
) -> None:
    """Steps `start`..`config.steps` of GRPO by `learner`; `on_step` logs and saves.

    key names the phase and seeds every draw, so a step depends on nothing but its number and the
    weights. Three skipped (non-finite) updates in a row raise NonFiniteRun; `skipped` is how many a
    resumed run had behind it.
    """
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    for step in range(start, config.steps):
        if role.stopped:
            return
        lr = lr_at(step, config.steps, config.lr, config.warmup, config.decay_from)
        begin = time.perf_counter()
        tasks = role.tasks(step)
        prompts = player.codec.encode([task.case for task in tasks])
        scorer = role.scorer(step, tasks)
        completions = roll_out(
            player.engine,
            prompts,
            scorer,
            n=config.group_size,
            sampling=sampling,
            seed=f"{key}/rollout/{step}",
        )
        rolled = time.perf_counter()
        scores = learner.agreed(scorer.finish())
        groups = penalised(scored_groups(prompts, completions, scores), config)
        scored = time.perf_counter()
        player.engine.sleep()  # the device is the trainer's until the next rollout
        metrics = learner.update(groups, lr=lr)
        player.engine.sync(player.model)
        trained = time.perf_counter()
        skipped = skipped + 1 if metrics["skipped"] else 0
        measures = {"lr": lr, "skipped_in_row": float(skipped)} | dict(metrics)
        measures |= scores.measures
        events, more = role.watch(step, measures)
        watched = time.perf_counter()
        measures |= more | {"tokens_per_second": metrics["tokens"] / (trained - begin)}
        record = StepRecord(
            round=round,
            phase=phase,
            step=step,
            steps=config.steps,
            reward=mean_parts(groups),
            seconds={
                "rollout": rolled - begin,
                "score": scored - rolled,
                "train": trained - scored,
                "watch": watched - trained,
            },
            measures=measures,
        )
        on_step(record, events)
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
