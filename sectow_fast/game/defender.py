"""The defender's role in a GRPO phase: kept attacks, existing unsafe data, harmless data."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sectow_fast.config import Config
from sectow_fast.game.monitors import DefenderMonitor
from sectow_fast.game.player import Player, judge_all, judged_replies
from sectow_fast.game.rewards import defender_reward
from sectow_fast.native import PrioritySampler
from sectow_fast.types import Attack, Case, Completion, Event, Reward, RoleName, Sampling, World


class Source:
    """Cases to draw from, the least certain first; a share `exploration` of the draws is uniform.

    A case that is always right or always wrong makes a dead group (see `PrioritySampler`).
    """

    def __init__(
        self, cases: Sequence[Case], key: str, exploration: float, strata: list[int] | None = None
    ) -> None:
        self.cases = cases
        seed = random.Random(key).getrandbits(64)
        self.priorities = PrioritySampler(
            len(cases), strata=strata, seed=seed, exploration=exploration
        )

    def draw(self, count: int, step: int) -> list[int]:
        """Places of `count` cases; all different, as far as there are as many."""
        drawn: list[int] = []
        while len(drawn) < count:
            size = min(count - len(drawn), len(self.cases))
            # Each turn through a small pool is a draw of its own.
            turn = (step << 16) + len(drawn)
            drawn += self.priorities.sample(size, step=turn).tolist()
        return drawn

    def learn(self, at: int, rewards: Sequence[float]) -> None:
        """Count what a case earned, rewards 0..1."""
        self.priorities.update([at], successes=[sum(rewards)], trials=[len(rewards)])


@dataclass(kw_only=True)
class DefenderRole:
    """Draws the mix, scores replies by label, watches over-refusal and can roll back."""

    world: World
    defender: Player
    config: Config
    pool: Sequence[Attack]
    round: int
    name: RoleName = "defender"
    stopped: bool = False
    last_good: dict[str, torch.Tensor] | None = None
    _probe: Sequence[Case] = field(default_factory=list)
    _drawn: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.monitor = DefenderMonitor(config=self.config.monitor)
        self._probe = self.world.harmless_probe()
        attacks = [attack.case for attack in self.pool]
        styles = sorted({case.style for case in attacks})
        key = f"{self.config.seed}/{self.round}/defend"
        exploration = self.config.defend.exploration
        self.sources = {
            "harmless": Source(self.world.train_cases("harmless"), key, exploration),
            "unsafe": Source(self.world.train_cases("unsafe"), key, exploration),
        }
        if attacks:
            # By style, then case: a style that won often must not crowd out the rest.
            strata = [styles.index(case.style) for case in attacks]
            self.sources["pool"] = Source(attacks, key, exploration, strata)

    @property
    def harmless_share(self) -> float:
        config = self.config
        if "no-harmless" in config.ablate:
            return 0.0
        raised = config.monitor.harmless_share_raised
        return (
            max(raised, config.defend.harmless_share)
            if self.monitor.raised
            else (config.defend.harmless_share)
        )

    def tasks(self, step: int) -> list[Case]:
        """The step's requests: a function of (seed, round, step) and what came of earlier ones."""
        rng = random.Random(f"{self.config.seed}/{self.round}/defend/tasks/{step}")
        wanted = Counter(self._source(rng) for _ in range(self.config.defend.prompts))
        self._drawn = [
            (name, at)
            for name in sorted(wanted)
            for at in self.sources[name].draw(wanted[name], step)
        ]
        return [self.sources[name].cases[at] for name, at in self._drawn]

    def _source(self, rng: random.Random) -> str:
        if rng.random() < self.harmless_share:
            return "harmless"
        if "pool" in self.sources and rng.random() < self.config.defend.pool_share:
            return "pool"
        return "unsafe"

    def rollout_player(self) -> Player:
        """The defender itself: its replies are judged by the world, not by another engine."""
        return self.defender

    def score(
        self, step: int, cases: Sequence[Case], groups: Sequence[Sequence[Completion]]
    ) -> tuple[list[list[Reward]], dict[str, float]]:
        """Rewards [prompts][G] and the step's measures."""
        rewards, refused, harmless = [], 0, 0
        decode = self.defender.codec.decode
        pairs = [
            (case, decode(one.ids))
            for case, group in zip(cases, groups, strict=True)
            for one in group
        ]
        judged = iter(judge_all(self.world, pairs))
        for case, group in zip(cases, groups, strict=True):
            verdicts = [next(judged) for _ in group]
            rewards.append([defender_reward(case, verdict) for verdict in verdicts])
            if case.label == "harmless":
                harmless += len(verdicts)
                refused += sum(verdict.refused for verdict in verdicts)
        for (name, at), group in zip(self._drawn, rewards, strict=True):
            self.sources[name].learn(at, [reward.total for reward in group])
        return rewards, {
            "refusal_rate": refused / harmless if harmless else 0.0,
            "harmless_share": self.harmless_share,
        }

    def watch(self, step: int, row: Mapping[str, float]) -> tuple[list[Event], dict[str, float]]:
        """Every `monitor.every` steps: ORR on the probe, and what follows from it."""
        if (step + 1) % self.config.monitor.every:
            return [], {}
        verdicts = judged_replies(
            self.world,
            self.defender,
            self._probe,
            n=1,
            sampling=Sampling(temperature=0.0, max_new_tokens=self.config.defend.max_new_tokens),
            seed="probe",
        )
        orr = sum(row[0].refused for row in verdicts) / len(verdicts)
        measured = {"orr_probe": orr}
        if "no-defender-monitor" in self.config.ablate:
            return [], measured
        action = self.monitor.judge(orr)
        if self.monitor.is_good(orr):
            state = self.defender.model.state_dict()
            self.last_good = {name: value.clone() for name, value in state.items()}
        if action == "none":
            return [], measured
        if action == "roll-back":
            kind = "roll-back"
            message = f"over-refusal {orr:.1%} on the probe: back to the last good weights"
            if self.last_good is None:
                message = f"over-refusal {orr:.1%} on the probe, and no good weights to go back to"
            else:
                self.defender.model.load_state_dict(self.last_good)
                self.defender.engine.sync(self.defender.model)
        elif action == "raise":
            kind = "over-refusal"
            message = f"over-refusal {orr:.1%}: harmless share up to {self.harmless_share:.0%}"
        else:
            kind = "over-refusal-ended"
            message = f"over-refusal {orr:.1%}: harmless share back to {self.harmless_share:.0%}"
        event = Event(
            kind=kind,
            message=message,
            round=self.round,
            phase="defend",
            step=step,
            values=measured,
        )
        return [event], measured

    def state(self) -> dict:
        priorities = {name: source.priorities.state() for name, source in self.sources.items()}
        return {
            "monitor": self.monitor.state(),
            "stopped": self.stopped,
            "priorities": priorities,
        }

    def restore(self, state: Mapping) -> None:
        self.monitor.restore(state["monitor"])
        self.stopped = bool(state["stopped"])
        for name, source in self.sources.items():
            source.priorities.restore(state["priorities"][name])
