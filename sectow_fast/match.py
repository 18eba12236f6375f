"""What is played: two players, the pool of kept attacks, the rounds so far, and where the run is.

`tug.py` says what happens to it, and `keeper.py` writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sectow_fast.config import Config, GRPOConfig
from sectow_fast.game.coldstart import Pupil
from sectow_fast.game.player import Player
from sectow_fast.game.schedule import schedule
from sectow_fast.learn.phase import Learner, Role
from sectow_fast.protocols import Stage
from sectow_fast.records import StepRecord, attack_as_dict, attack_from_dict
from sectow_fast.rounds import HarvestRecord, LeagueRecord, RoundRecord, StyleCount, event_dict
from sectow_fast.types import Attack, Event, Rate, RoleName


class Cast(Protocol):
    """Who plays, and how each of them is trained (players.py)."""

    defender: Player
    attacker: Player

    def fork_attacker(self) -> None:
        """The attacker becomes the defender's twin: two copies of one model."""
        ...

    def save_round(self, k: int) -> None:
        """Keep both players as they are at the end of round k; 0: before any reinforcement
        learning."""
        ...

    def round_zero(self) -> Player:
        """The defender as `save_round` kept it at round 0; it never learns again."""
        ...

    def as_of(self, role: RoleName, k: int) -> Player:
        """A player as `save_round` kept it at round k; it never learns again."""
        ...

    def learner(self, player: Player, config: GRPOConfig) -> Learner:
        """Policy updates of a player for the length of one phase."""
        ...

    def pupil(self, player: Player, *, lr: float) -> AbstractContextManager[Pupil]:
        """Supervised updates of a player for the length of one phase."""
        ...


class Journal(Protocol):
    """What the tug-of-war says while it goes on (keeper.py writes it down)."""

    def phase(self, round: int, name: str, steps: int) -> None:
        """A phase of `steps` steps begins."""
        ...

    def timed(self, round: int, name: str) -> AbstractContextManager[dict[str, float]]:
        """A phase without steps, from its beginning to its end; it fills in its measures."""
        ...

    def on_step(self, record: StepRecord, events: Sequence[Event]) -> None: ...

    def on_event(self, event: Event) -> None:
        """Something happened in a phase without steps."""
        ...

    def write_pool(self) -> None: ...

    def round_done(self, record: RoundRecord) -> None: ...

    def next_phase(self) -> None: ...

    def saving_the_failed_batch(self) -> AbstractContextManager[None]: ...


@dataclass(kw_only=True)
class Match:
    """cursor: the phase of the schedule that is under way; step: its next step; skipped: how many
    updates in a row were skipped just before. harvest, queries, attacker_rates and events are of
    the round under way, and go into its record. league: once it was played. role_state and
    last_good are what a checkpoint had of the phase's role, until the phase takes them up.
    cold_attacker: the attacker's weights of round 0, kept only where `attack.on_collapse` may go
    back to them. own_replies: by case, the defender's as it was given; a resumed cold start could
    not draw them again. zero: what round 0 refused of the probe, where over-refusal is measured
    against that.
    """

    config: Config
    stage: Stage
    cast: Cast
    pool: list[Attack] = field(default_factory=list)
    rounds: list[RoundRecord] = field(default_factory=list)
    harvest: HarvestRecord | None = None
    queries: dict[str, int] = field(default_factory=dict)
    attacker_rates: dict[str, Rate] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    league: LeagueRecord | None = None
    own_replies: dict[str, str] = field(default_factory=dict)
    zero: tuple[bool, ...] = ()
    cursor: int = 0
    step: int = 0
    skipped: int = 0
    role: Role | None = None
    role_state: Mapping[str, Any] | None = None
    last_good: dict[str, torch.Tensor] | None = None
    cold_attacker: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def phase(self) -> str | None:
        """The phase that is under way; None at the end."""
        plan = schedule(self.config)
        return plan[self.cursor][1] if self.cursor < len(plan) else None

    def enter(self, role: Role) -> None:
        """`role` is being played from now on; it goes on where a checkpoint left it."""
        self.role = role
        if self.role_state is not None:
            role.restore(self.role_state)
            role.last_good = self.last_good

    def next_phase(self) -> None:
        self.cursor, self.step, self.skipped = self.cursor + 1, 0, 0
        self.role = self.role_state = self.last_good = None

    def end_round(self, record: RoundRecord) -> None:
        self.rounds.append(record)
        self.harvest, self.queries, self.attacker_rates, self.events = None, {}, {}, []

    def state(self) -> dict[str, Any]:
        """Everything but weights, as JSON: what the next step reads."""
        harvest = None
        if self.harvest is not None:
            styles = {name: vars(count) for name, count in self.harvest.styles.items()}
            harvest = vars(self.harvest) | {"styles": styles}
        return {
            "own_replies": self.own_replies,
            "league": None if self.league is None else self.league.as_dict(),
            "zero": list(self.zero),
            "cursor": self.cursor,
            "step": self.step,
            "skipped": self.skipped,
            "role": None if self.role is None else self.role.state(),
            "pool": [attack_as_dict(attack) for attack in self.pool],
            "rounds": [record.as_dict() for record in self.rounds],
            "harvest": harvest,
            "queries": dict(self.queries),
            "attacker_rates": {name: rate.as_dict() for name, rate in self.attacker_rates.items()},
            "events": [event_dict(event) for event in self.events],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; the role comes back when its phase is entered.

        KeyError, TypeError, ValueError: no state of a match with this configuration.
        """
        for name in ("cursor", "step", "skipped"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"{name}: found {state[name]!r}, expected a number from 0")
        phases = len(schedule(self.config))
        if state["cursor"] > phases:
            raise ValueError(f"cursor: found {state['cursor']}, expected at most {phases}")
        self.cursor, self.step, self.skipped = state["cursor"], state["step"], state["skipped"]
        self.own_replies = dict(state.get("own_replies", {}))
        league = state.get("league")
        self.league = None if league is None else LeagueRecord.from_dict(league)
        self.zero = tuple(map(bool, state.get("zero", ())))
        self.role_state = state["role"]
        self.pool = [attack_from_dict(row) for row in state["pool"]]
        self.rounds = [RoundRecord.from_dict(row, where="checkpoint") for row in state["rounds"]]
        self.harvest = None
        if state["harvest"] is not None:
            styles = {k: StyleCount(**count) for k, count in state["harvest"]["styles"].items()}
            self.harvest = HarvestRecord(**state["harvest"] | {"styles": styles})
        self.queries = {name: int(count) for name, count in state["queries"].items()}
        self.attacker_rates = {name: Rate(**row) for name, row in state["attacker_rates"].items()}
        self.events = [Event(**row) for row in state["events"]]
