"""The defender's role in a GRPO phase: kept attacks, existing unsafe data, harmless data."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sectow_fast.config import Config
from sectow_fast.game.monitors import EntropyFloor, watch_entropy
from sectow_fast.game.over_refusal import (
    RATE,
    SHARE,
    WEIGHT,
    Action,
    DefenderMonitor,
    Look,
    RelativeMonitor,
)
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.game.proxy import gap_measures
from sectow_fast.game.rewards import Earned, defender_reward, with_terms
from sectow_fast.game.tasks import Source, defend_sources, defend_tasks
from sectow_fast.learn.phase import draw_key
from sectow_fast.protocols import World
from sectow_fast.types import (
    Attack,
    Completion,
    DefendTask,
    Event,
    Reward,
    RoleName,
    Sampling,
    Scores,
    Verdict,
)


class DefendScorer:
    """Takes one step's replies as they finish; they are judged together at the end."""

    def __init__(self, role: DefenderRole, tasks: Sequence[DefendTask]) -> None:
        self._role, self._tasks = role, tasks
        self._replies: dict[tuple[int, int], Completion] = {}

    def take(self, i: int, j: int, completion: Completion) -> None:
        """Reply j to task i is finished."""
        self._replies[i, j] = completion

    def finish(self) -> Scores:
        role = self._role
        size = role.config.defend.group_size
        keys = [(i, j) for i in range(len(self._tasks)) for j in range(size)]
        words = [role.defender.codec.decode(self._replies[key].ids) for key in keys]
        verdicts = role.world.judge_all(
            [(self._tasks[i].case, reply) for (i, _), reply in zip(keys, words, strict=True)]
        )
        earned = [
            Earned(
                case=self._tasks[i].case,
                reply=reply,
                completion=self._replies[i, j],
                verdicts=(verdict,),
            )
            for (i, j), reply, verdict in zip(keys, words, verdicts, strict=True)
        ]
        return role.scores(
            self._tasks, [earned[at : at + size] for at in range(0, len(earned), size)]
        )


@dataclass(kw_only=True)
class DefenderRole:
    """Draws the mix, scores replies by label, watches over-refusal and can roll back.

    last_good: the weights of the last probe that found little over-refusal. zero: what round 0
    refused of the probe, where over-refusal is measured against that and a phase has begun before.
    """

    world: World
    defender: Player
    config: Config
    pool: Sequence[Attack]
    round: int
    zero: tuple[bool, ...] = ()
    name: RoleName = "defender"
    stopped: bool = False
    last_good: dict[str, torch.Tensor] | None = None
    monitor: DefenderMonitor | RelativeMonitor = field(init=False)
    floor: EntropyFloor = field(init=False)
    sources: dict[str, Source] = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = DefenderMonitor(config=self.config.monitor)
        if self.config.monitor.against == "round-0":
            self.monitor = RelativeMonitor(config=self.config.monitor, zero=self.zero)
        self.floor = EntropyFloor(config=self.config.defend)
        self.sources = defend_sources(
            self.world,
            self.pool,
            key=f"{self.config.seed}/{self.round}/defend",
            exploration=self.config.defend.exploration,
            past_share=self.config.defend.past_share,
            round=self.round,
        )

    @property
    def entropy_coef(self) -> float | None:
        """See `phase.Role`."""
        return self.floor.coef

    @property
    def rate(self) -> float:
        """See `phase.Role`."""
        return self.monitor.rate

    def begin(self) -> tuple[bool, ...]:
        """Before the first step of a phase: its weights count as good until as good ones are seen.

        Returns what round 0 refused of the probe; none where over-refusal is held to bounds of its
        own, for which nothing is looked at."""
        if not isinstance(self.monitor, RelativeMonitor):
            return ()
        self.monitor.begin(self.probe())
        self.last_good = self.defender.weights()
        return self.monitor.zero

    @property
    def harmless_share(self) -> float:
        """The share of harmless requests: raised while the monitor sees over-refusal."""
        share = self.config.defend.harmless_share
        if self.monitor.raised:
            return max(self.config.monitor.harmless_share_raised, share)
        return share

    def tasks(self, step: int, *, turn: int = 0, count: int | None = None) -> list[DefendTask]:
        """A function of (seed, round, step, turn) and what earlier requests earned; see `Role`."""
        key = draw_key(step, turn)
        rng = random.Random(f"{self.config.seed}/{self.round}/defend/tasks/{key}")
        return defend_tasks(
            self.sources,
            count=self.config.defend.prompts if count is None else count,
            harmless_share=self.harmless_share,
            pool_share=self.config.defend.pool_share,
            past_share=self.config.defend.past_share or 0.0,
            step=step,
            turn=turn,
            rng=rng,
        )

    def scorer(self, step: int, tasks: Sequence[DefendTask], *, turn: int = 0) -> DefendScorer:
        return DefendScorer(self, tasks)

    def scores(self, tasks: Sequence[DefendTask], groups: Sequence[Sequence[Earned]]) -> Scores:
        """Rewards and measures of a step, [prompts][G]; the sources learn which cases are open."""
        rewards: list[list[Reward]] = []
        harmless: list[Verdict] = []
        unsafe: list[Verdict] = []
        for task, group in zip(tasks, groups, strict=True):
            plain = [
                defender_reward(
                    task.case,
                    earned.verdicts[0],
                    cut=not self.world.cut_earns and earned.completion.finish_reason == "length",
                )
                for earned in group
            ]
            self.sources[task.source].update(task.place, [reward.total for reward in plain])
            rewards.append(
                [
                    with_terms(reward, earned, self.config.defend.terms)
                    for reward, earned in zip(plain, group, strict=True)
                ]
            )
            same = harmless if task.case.label == "harmless" else unsafe
            same += [earned.verdicts[0] for earned in group]
        refused = sum(verdict.refused for verdict in harmless)
        measures = {
            "refusal_rate": refused / len(harmless) if harmless else 0.0,
            "harmless_share": self.harmless_share,
            **gap_measures(earned.verdicts[0] for group in groups for earned in group),
            **self.monitor.answered_share(unsafe),
        }
        weights = tuple(
            self.monitor.weight if task.case.label == "harmless" else 1.0 for task in tasks
        )
        return Scores(rewards=rewards, measures=measures, weights=weights)

    def watch(
        self, step: int, measures: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]:
        """The entropy, and every `monitor.every` steps the probe's over-refusal rate (ORR).

        A look draws nothing at random (the probe is decoded greedily), so that how often it is
        taken changes no step in which the monitor does not act.
        """
        event = functools.partial(Event, round=self.round, phase="defend", step=step)
        events, more = watch_entropy(self.floor, measures, event)
        self.monitor.count(measures)
        if (step + 1) % self.config.monitor.every:
            return events, more
        look = self.probe()
        measured = self.monitor.found(look)
        if self.config.monitor.watch_defender:
            action = self.monitor.judge(look)
            if self.monitor.is_good(look):
                self.last_good = self.defender.weights()
            if action != "none":
                kind, message = self._act(action, look)
                events.append(event(kind=kind, message=message, values=measured))
        return events, more | measured

    def probe(self) -> Look:
        """What the defender refuses of the held-out harmless probe, decoded greedily.

        A reply that is empty or off the mark is no help either, and counts as a refusal.
        """
        verdicts = judged_replies(
            self.world,
            self.defender,
            self.world.harmless_probe(),
            n=1,
            sampling=Sampling(temperature=0.0, max_new_tokens=self.config.defend.max_new_tokens),
            seed="probe",
        )
        return Look(refused=tuple(row[0].refused or row[0].idle for row in verdicts))

    def _act(self, action: Action, look: Look) -> tuple[str, str]:
        """(kind, message) of the event; a roll-back puts the last good weights in place, and a stop
        ends the phase with the weights as they are."""
        found = self.monitor.words(look)
        share, usual = f"{self.harmless_share:.0%}", self.config.defend.harmless_share
        if action in ("raise", "lower"):
            back = "back to" if action == "lower" else "up to"
            how = back if action == "lower" or self.harmless_share > usual else "stays at"
            measure = {
                SHARE: f"harmless share {how} {share}",
                WEIGHT: f"weight of harmless prompts {back} {self.monitor.weight:g}",
                RATE: f"learning rate times {self.rate:g}",
            }[self.monitor.measure(action)]
            kind = "over-refusal-ended" if action == "lower" else "over-refusal"
            return kind, f"{found}: {measure}"
        if action == "stop":
            self.stopped = True
            return "early-stop", f"defender phase stopped early: {found}, and attacks work no more"
        found = f"{found} on the probe"
        if self.last_good is None:
            return "roll-back", f"{found}, and no good weights to go back to"
        self.defender.restore(self.last_good)
        return "roll-back", f"{found}: back to the last good weights"

    def state(self) -> dict:
        return {
            "monitor": self.monitor.state(),
            "floor": self.floor.state(),
            "stopped": self.stopped,
            "priorities": {name: one.priorities.state() for name, one in self.sources.items()},
        }

    def restore(self, state: Mapping) -> None:
        self.monitor.restore(state["monitor"])
        self.floor.restore(state["floor"])
        self.stopped = bool(state["stopped"])
        for name, source in self.sources.items():
            source.priorities.restore(state["priorities"][name])
