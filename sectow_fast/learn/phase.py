"""One GRPO phase for either role: rollout, score, update, watch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    @property
    def entropy_coef(self) -> float | None:
        """What the next update's entropy bonus weighs; None: what the phase's settings say."""
        ...

    @property
    def rate(self) -> float:
        """What the phase's learning rate is multiplied by in the next update."""
        ...

    def tasks(self, step: int, *, turn: int = 0, count: int | None = None) -> list[T]:
        """What is asked in a step; where it is refilled, `count` more tasks in each later turn."""
        ...

    def scorer(self, step: int, tasks: Sequence[T], *, turn: int = 0) -> Scorer: ...

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

    def live(self, groups: Sequence[Group]) -> int:
        """How many of the groups there is something to learn from: the first rank's count."""
        ...

    def update(
        self, groups: Sequence[Group], *, lr: float, entropy_coef: float | None = None
    ) -> Mapping[str, float]: ...


class PhasePlayer(Protocol):
    """The player whose phase it is (game/player.py)."""

    model: Any
    engine: Engine
    codec: Codec


def draw_key(step: int, turn: int) -> str:
    """What a draw of one turn of a step is named by. The first turn has the step's number alone.

    >>> draw_key(3, 0), draw_key(3, 2)
    ('3', '3+2')
    """
    return f"{step}+{turn}" if turn else str(step)


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
    weights = scores.weights or (1.0,) * len(prompts)
    rows = zip(prompts, completions, scores.rewards, weights, strict=True)
    for prompt, row, rewards, weight in rows:
        for j, reward in enumerate(rewards):
            reward.check(case_id=prompt.case_id, completion=j)
        groups.append(
            Group(prompt=prompt, completions=tuple(row), rewards=tuple(rewards), weight=weight)
        )
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


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One roll-out of a step with its rewards. measures: the role's; seconds: of the roll-out."""

    groups: list[Group]
    measures: Mapping[str, float]
    seconds: float


def play_turns(
    role: Role, *, player: PhasePlayer, learner: Learner, config: GRPOConfig, key: str, step: int
) -> tuple[list[Turn], dict[str, float]]:
    """(a step's turns, counts to log): after the first at most `config.refill_turns`, while fewer
    than `config.prompts` groups are live, each with as many prompts as are missing.

    Groups without a signal are replaced as in DAPO's dynamic sampling; the bound is our choice.
    """
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    turns: list[Turn] = []
    groups: list[Group] = []
    missing: int | None = None
    while missing is None or (missing > 0 and len(turns) <= config.refill_turns):
        turn, begin = len(turns), time.perf_counter()
        tasks = role.tasks(step, turn=turn, count=missing)
        prompts = player.codec.encode([task.case for task in tasks])
        scorer = role.scorer(step, tasks, turn=turn)
        seed = f"{key}/rollout/{draw_key(step, turn)}"
        completions = roll_out(
            player.engine, prompts, scorer, n=config.group_size, sampling=sampling, seed=seed
        )
        seconds = time.perf_counter() - begin
        scores = learner.agreed(scorer.finish())
        mine = penalised(scored_groups(prompts, completions, scores), config)
        turns.append(Turn(groups=mine, measures=scores.measures, seconds=seconds))
        groups += mine
        missing = config.prompts - learner.live(groups) if config.refill_turns else 0
    counts = {
        "turns": len(turns),
        "refilled": len(groups) - len(turns[0].groups),
        "dead": len(groups) - config.prompts + missing,
    }
    return turns, {k: float(v) for k, v in counts.items()} if config.refill_turns else {}


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
    resumed run had behind it. Rewards and the role's measures are of a step's first turn, so that a
    refilled step is judged and shown by what other steps are; the update's are of all turns.
    """
    for step in range(start, config.steps):
        if role.stopped:
            return
        lr = role.rate * lr_at(step, config.steps, config.lr, config.warmup, config.decay_from)
        begin = time.perf_counter()
        turns, counts = play_turns(
            role, player=player, learner=learner, config=config, key=key, step=step
        )
        groups = [group for turn in turns for group in turn.groups]
        scored, rollout = time.perf_counter(), sum(turn.seconds for turn in turns)
        player.engine.sleep()  # the device is the trainer's until the next rollout
        metrics = learner.update(groups, lr=lr, entropy_coef=role.entropy_coef)
        player.engine.sync(player.model)
        trained = time.perf_counter()
        skipped = skipped + 1 if metrics["skipped"] else 0
        measures = {"lr": lr, "skipped_in_row": float(skipped)} | dict(metrics)
        measures |= counts | dict(turns[0].measures)
        events, more = role.watch(step, measures)
        watched = time.perf_counter()
        measures |= more | {"tokens_per_second": metrics["tokens"] / (trained - begin)}
        record = StepRecord(
            round=round,
            phase=phase,
            step=step,
            steps=config.steps,
            reward=mean_parts(turns[0].groups),
            seconds={
                "rollout": rollout,
                "score": scored - begin - rollout,
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
