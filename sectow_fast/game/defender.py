"""The defender's role in a GRPO phase: kept attacks, existing unsafe data, harmless data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sectow_fast.config import Config
from sectow_fast.game.monitors import DefenderMonitor
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.game.proxy import gap_measures
from sectow_fast.game.rewards import Earned, defender_reward, with_terms
from sectow_fast.game.tasks import Source, defend_sources, defend_tasks
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

    last_good: the weights of the last probe that found little over-refusal.
    """

    world: World
    defender: Player
    config: Config
    pool: Sequence[Attack]
    round: int
    name: RoleName = "defender"
    stopped: bool = False
    last_good: dict[str, torch.Tensor] | None = None
    monitor: DefenderMonitor = field(init=False)
    sources: dict[str, Source] = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = DefenderMonitor(config=self.config.monitor)
        self.sources = defend_sources(
            self.world,
            self.pool,
            key=f"{self.config.seed}/{self.round}/defend",
            exploration=self.config.defend.exploration,
        )

    @property
    def harmless_share(self) -> float:
        """The share of harmless requests: raised while the monitor sees over-refusal."""
        share = self.config.defend.harmless_share
        if self.monitor.raised:
            return max(self.config.monitor.harmless_share_raised, share)
        return share

    def tasks(self, step: int) -> list[DefendTask]:
        """The step's requests: a function of (seed, round, step) and what earlier ones earned."""
        rng = random.Random(f"{self.config.seed}/{self.round}/defend/tasks/{step}")
        return defend_tasks(
            self.sources,
            count=self.config.defend.prompts,
            harmless_share=self.harmless_share,
            pool_share=self.config.defend.pool_share,
            step=step,
            rng=rng,
        )

    def scorer(self, step: int, tasks: Sequence[DefendTask]) -> DefendScorer:
        return DefendScorer(self, tasks)

    def scores(self, tasks: Sequence[DefendTask], groups: Sequence[Sequence[Earned]]) -> Scores:
        """Rewards and measures of a step, [prompts][G]; the sources learn which cases are open."""
        rewards: list[list[Reward]] = []
        harmless: list[Verdict] = []
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
            if task.case.label == "harmless":
                harmless += [earned.verdicts[0] for earned in group]
        refused = sum(verdict.refused for verdict in harmless)
        measures = {
            "refusal_rate": refused / len(harmless) if harmless else 0.0,
            "harmless_share": self.harmless_share,
            **gap_measures(earned.verdicts[0] for group in groups for earned in group),
        }
        return Scores(rewards=rewards, measures=measures)

    def watch(
        self, step: int, measures: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]:
        """Every `monitor.every` steps: the probe's over-refusal rate (ORR), and what follows."""
        if (step + 1) % self.config.monitor.every:
            return [], {}
        orr = self.probe()
        measured = {"orr_probe": orr}
        if not self.config.monitor.watch_defender:
            return [], measured
        action = self.monitor.judge(orr)
        if self.monitor.is_good(orr):
            self.last_good = self.defender.weights()
        if action == "none":
            return [], measured
        kind, message = self._act(action, orr)
        event = Event(
            kind=kind,
            message=message,
            round=self.round,
            phase="defend",
            step=step,
            values=measured,
        )
        return [event], measured

    def probe(self) -> float:
        """The share of the held-out harmless probe that the defender refuses, decoded greedily.

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
        return sum(row[0].refused or row[0].idle for row in verdicts) / len(verdicts)

    def _act(self, action: str, orr: float) -> tuple[str, str]:
        """(kind, message) of the event; a roll-back puts the last good weights in place."""
        if action == "raise":
            share = f"{self.harmless_share:.0%}"
            return "over-refusal", f"over-refusal {orr:.1%}: harmless share up to {share}"
        if action == "lower":
            share = f"{self.harmless_share:.0%}"
            return "over-refusal-ended", f"over-refusal {orr:.1%}: harmless share back to {share}"
        found = f"over-refusal {orr:.1%} on the probe"
        if self.last_good is None:
            return "roll-back", f"{found}, and no good weights to go back to"
        self.defender.restore(self.last_good)
        return "roll-back", f"{found}: back to the last good weights"

    def state(self) -> dict:
        return {
            "monitor": self.monitor.state(),
            "stopped": self.stopped,
            "priorities": {name: one.priorities.state() for name, one in self.sources.items()},
        }

    def restore(self, state: Mapping) -> None:
        self.monitor.restore(state["monitor"])
        self.stopped = bool(state["stopped"])
        for name, source in self.sources.items():
            source.priorities.restore(state["priorities"][name])
