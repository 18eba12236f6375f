"""A cast, a stage and a journal that follow a script, for whole rounds; see scripted.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from scripted import MEASURES, ScriptedCodec, ScriptedWorld, question

from sectow_fast.game.player import Player
from sectow_fast.match import Match
from sectow_fast.records import StepRecord
from sectow_fast.types import Event


@dataclass
class ScriptedLearner:
    """Adds 1 to the weight with every update, and keeps what it was given."""

    player: Player
    metrics: Mapping[str, float] = field(default_factory=lambda: {"skipped": 0.0, "tokens": 1.0})
    batches: list[Any] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    coefs: list[float | None] = field(default_factory=list)  # of the entropy bonus

    def agreed(self, scores):
        return scores

    def live(self, groups):
        totals = [{reward.total for reward in group.rewards} for group in groups]
        return sum(len(found) > 1 for found in totals)

    def update(self, groups, *, lr, entropy_coef=None):
        self.coefs.append(entropy_coef)
        return self._learn(groups, lr)

    def teach(self, pairs, *, lr):
        return self._learn(pairs, lr)

    def _learn(self, batch, lr):
        self.batches.append(batch)
        self.rates.append(lr)
        with torch.no_grad():
            self.player.model.weight += 1
        return self.metrics


class ScriptedCast:
    """`match.Cast`. said: what was asked of it, in order."""

    def __init__(self, *, attacker: Player, defender: Player, frozen: Player | None = None) -> None:
        self.attacker, self.defender = attacker, defender
        self.frozen = frozen or defender
        self.past: dict[tuple[str, int], Player] = {}  # by role and round
        self.said: list[str] = []
        self.metrics = {"skipped": 0.0, "tokens": 1.0}  # of every update
        self.given: list[Any] = []  # each phase's GRPO settings, or its rate where it is supervised
        self.learners: list[ScriptedLearner] = []

    def fork_attacker(self):
        self.said.append("fork")

    def save_round(self, k):
        self.said.append(f"save round {k}")

    def round_zero(self):
        return self.frozen

    def as_of(self, role, k):
        self.said.append(f"{role} of round {k}")
        return self.past[role, k]

    def learner(self, player, config):
        self.given.append(config)
        self.learners.append(ScriptedLearner(player, self.metrics))
        return self.learners[-1]

    @contextlib.contextmanager
    def pupil(self, player, *, lr):
        yield self.learner(player, lr)


@dataclass
class ScriptedStage:
    world: ScriptedWorld = field(default_factory=ScriptedWorld)
    codec: ScriptedCodec = field(default_factory=ScriptedCodec)
    measures: Mapping[str, str] = field(default_factory=lambda: MEASURES)
    space: Any = None
    proxies: Mapping[str, Any] = field(default_factory=dict)
    needs_replies: bool = False

    @property
    def lessons(self):
        names = ("coldstart-caption", "coldstart-defender", "coldstart-attacker")
        return {name: self._lesson(name) for name in names}

    def safe_lesson(self, pool, replies):
        beside = f" beside {len(replies)}" if replies else ""
        return self._lesson(f"safe after {len(pool)}{beside}")

    def refusal_lesson(self, replies):
        return self._lesson(f"refusals beside {len(replies)}")

    def _lesson(self, name: str):
        return lambda rng: (question(rng.randrange(100)), name)


class MemoryJournal:
    """`match.Journal` in memory."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self.phases: list[tuple[int, str, int]] = []
        self.steps: list[StepRecord] = []
        self.events: list[Event] = []
        self.pools: list[int] = []
        self.timings: dict[tuple[int, str], dict[str, float]] = {}

    def phase(self, round, name, steps):
        self.phases.append((round, name, steps))

    @contextlib.contextmanager
    def timed(self, round, name):
        self.phase(round, name, 1)
        yield self.timings.setdefault((round, name), {})

    def on_step(self, record, events):
        self.steps.append(record)
        self.events += events
        self.match.events += events
        self.match.step = record.step + 1

    def on_event(self, event):
        self.events.append(event)
        self.match.events.append(event)

    def write_pool(self):
        self.pools.append(len(self.match.pool))

    def round_done(self, record):
        self.match.end_round(record)

    def next_phase(self):
        self.match.next_phase()

    def saving_the_failed_batch(self):
        return contextlib.nullcontext()
