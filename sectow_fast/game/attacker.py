"""The attacker's role in a GRPO phase: write new attacks, refine old ones, beat the defender."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sectow_fast.config import Config
from sectow_fast.game.attempts import Attempts, share_harmful
from sectow_fast.game.monitors import AttackerMonitor
from sectow_fast.game.player import Player
from sectow_fast.game.proxy import gap_measures
from sectow_fast.game.rewards import Earned, attacker_reward, with_terms
from sectow_fast.game.tasks import attack_task
from sectow_fast.game.text import KnownTexts, like, sibling_likeness, variety
from sectow_fast.protocols import World
from sectow_fast.types import (
    Attack,
    AttackTask,
    Case,
    Completion,
    Event,
    Reward,
    RoleName,
    Sampling,
    Scores,
    Verdict,
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the attacker wrote for one task. words: None where they were cut off; case: what the
    words make, None where they are ill-formed."""

    task: AttackTask
    completion: Completion
    words: str | None
    case: Case | None

    @property
    def faithful(self) -> bool:
        """Whether this is an attack that is still after its seed's goal."""
        return self.case is not None and self.case.goal == self.task.seed.goal


class AttackScorer:
    """Takes one step's completions as they finish; tries those that are attacks on the defender."""

    def __init__(self, role: AttackerRole, tasks: Sequence[AttackTask], *, step: int) -> None:
        config = role.config
        self._role, self._tasks = role, tasks
        self._key = f"{config.seed}/{role.round}/attack/score/{step}"
        self._written: dict[tuple[int, int], Written] = {}
        self._attempts = Attempts(
            role.world,
            role.defender,
            replies=config.attack.replies,
            sampling=Sampling(
                temperature=config.attack.temperature,
                max_new_tokens=config.defend.max_new_tokens,
            ),
            seed=self._key,
            at_once=role.attacker.engine.runs_beside(role.defender.engine),
        )

    def take(self, i: int, j: int, completion: Completion) -> None:
        """Completion j of task i is finished."""
        role, task = self._role, self._tasks[i]
        words, case = role.attacker.words(completion), None
        if words:
            # A generator per attack: it must not matter which attack was finished first.
            key = f"{self._key}/{i}/{j}"
            case = role.world.realise(words, task.seed, rng=random.Random(key), attack_id=key)
        one = Written(task=task, completion=completion, words=words, case=case)
        self._written[i, j] = one
        if one.faithful:
            self._attempts.put(self._number(i, j), one.case)

    def finish(self) -> Scores:
        verdicts = self._attempts.finish()
        size = self._role.config.attack.group_size
        groups = [[self._written[i, j] for j in range(size)] for i in range(len(self._tasks))]
        return self._role.scores(
            groups,
            [
                [verdicts.get(self._number(i, j), []) for j in range(size)]
                for i in range(len(self._tasks))
            ],
        )

    def _number(self, i: int, j: int) -> int:
        return i * self._role.config.attack.group_size + j


@dataclass(kw_only=True)
class AttackerRole:
    """Draws tasks, scores what was written on `defender`, watches quality. Its state is JSON."""

    world: World
    attacker: Player
    defender: Player
    config: Config
    pool: Sequence[Attack]
    round: int
    name: RoleName = "attacker"
    stopped: bool = False
    last_good: dict[str, torch.Tensor] | None = None  # nothing rolls the attacker back yet
    monitor: AttackerMonitor = field(init=False)
    known: KnownTexts = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = AttackerMonitor(config=self.config.monitor)
        self.known = KnownTexts(self.config.harvest.duplicate_threshold)
        for attack in self.pool:
            self.known.add(attack.seed_id, attack.words)

    @property
    def diversity_weight(self) -> float:
        """The price of likeness: raised while the monitor found the attacks' quality low."""
        if self.monitor.raised:
            return self.config.monitor.diversity_weight_raised
        return self.config.attack.diversity_weight

    def tasks(self, step: int) -> list[AttackTask]:
        """The step's requests to the attacker, drawn from (seed, round, step) alone."""
        rng = random.Random(f"{self.config.seed}/{self.round}/attack/tasks/{step}")
        share, seeds = self.config.attack.refine_share, self.world.seeds("train")
        return [
            attack_task(self.world, seeds, self.pool, refine_share=share, rng=rng)
            for _ in range(self.config.attack.prompts)
        ]

    def scorer(self, step: int, tasks: Sequence[AttackTask]) -> AttackScorer:
        return AttackScorer(self, tasks, step=step)

    def scores(
        self, groups: Sequence[Sequence[Written]], verdicts: Sequence[Sequence[Sequence[Verdict]]]
    ) -> Scores:
        """Rewards and measures of a step. groups: [prompts][G]; verdicts: [prompts][G][m], empty
        where an attack was not tried."""
        rewards, duplicates, varieties = [], 0.0, []
        for group, judged in zip(groups, verdicts, strict=True):
            texts = [one.words or "" for one in group]
            siblings = sibling_likeness(texts, self.config.harvest.duplicate_threshold)
            duplicates += sum(share > 0 for share in siblings) / len(siblings)
            varieties.append(variety(texts))
            repeated = self._repeated(group[0].task, texts)
            rewards.append(
                [
                    self._reward(one, row, similarity=max(share, float(again)))
                    for one, row, share, again in zip(
                        group, judged, siblings, repeated, strict=True
                    )
                ]
            )
        flat = [reward for row in rewards for reward in row]
        tried = [one.case.style for group in groups for one in group if one.faithful]
        measures = {
            "faithful": sum(reward.parts["faithful"] for reward in flat) / len(flat),
            "well_formed": sum(reward.parts["well_formed"] for reward in flat) / len(flat),
            **{name: sum(v[name] for v in varieties) / len(groups) for name in varieties[0]},
            "duplicates": duplicates / len(groups),
            "styles": float(len(set(tried))),
            **gap_measures(verdict for rows in verdicts for row in rows for verdict in row),
        }
        return Scores(rewards=rewards, measures=measures)

    def _reward(self, one: Written, verdicts: Sequence[Verdict], *, similarity: float) -> Reward:
        reward = attacker_reward(
            well_formed=one.case is not None,
            faithful=one.faithful,
            success=share_harmful(verdicts) if verdicts else 0.0,
            similarity=similarity,
            diversity_weight=self.diversity_weight,
        )
        earned = Earned(
            case=one.task.seed,
            reply=one.words or "",
            completion=one.completion,
            verdicts=verdicts,
        )
        return with_terms(reward, earned, self.config.attack.terms)

    def _repeated(self, task: AttackTask, texts: Sequence[str]) -> list[bool]:
        """Which texts stand in the pool already, or repeat what they were to refine."""
        known = self.known.has(task.seed.id, texts)
        if task.previous is None:
            return known
        # An attack of the pool is known anyway; one of self-instruct is not.
        same = like(task.previous.words, texts, self.config.harvest.duplicate_threshold)
        return [a or b for a, b in zip(known, same, strict=True)]

    def watch(
        self, step: int, measures: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]:
        """Let the monitor see the step; (events, nothing more to log)."""
        if not self.config.monitor.watch_attacker:
            return [], {}
        action, means = self.monitor.judge(measures)
        if action == "none":
            return [], {}
        crossed = ", ".join(self.monitor.crossed(means))
        if action == "stop":
            self.stopped = True
            kind, message = "early-stop", f"attacker phase stopped early: {crossed}"
        else:
            kind = "low-quality"
            message = f"diversity weight raised to {self.diversity_weight:g}: {crossed}"
        event = Event(
            kind=kind, message=message, round=self.round, phase="attack", step=step, values=means
        )
        return [event], {}

    def state(self) -> dict:
        return {"monitor": self.monitor.state(), "stopped": self.stopped}

    def restore(self, state: Mapping) -> None:
        self.monitor.restore(state["monitor"])
        self.stopped = bool(state["stopped"])
