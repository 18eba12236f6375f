"""The attacker's role in a GRPO phase: write new attacks, refine old ones, beat the defender."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sectow_fast.config import Config
from sectow_fast.game.attempts import Attempts, share_harmful, share_refused
from sectow_fast.game.monitors import AttackerMonitor, EntropyFloor, MakeEvent, watch_entropy
from sectow_fast.game.player import Player
from sectow_fast.game.proxy import gap_measures
from sectow_fast.game.rewards import Earned, attacker_reward, with_terms
from sectow_fast.game.tasks import Written, attack_task
from sectow_fast.game.text import KnownTexts, like, sibling_likeness, variety
from sectow_fast.learn.phase import draw_key
from sectow_fast.protocols import World
from sectow_fast.types import (
    Attack,
    AttackTask,
    Completion,
    Event,
    Reward,
    RoleName,
    Sampling,
    Scores,
    Verdict,
)


class AttackScorer:
    """Takes one step's completions as they finish; tries those that are attacks on the defender."""

    def __init__(self, role: AttackerRole, tasks: Sequence[AttackTask], *, key: str) -> None:
        config = role.config
        self._role, self._tasks = role, tasks
        self._key = f"{config.seed}/{role.round}/attack/score/{key}"
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
        if role.tries(one):
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
    """Draws tasks, scores what was written on `defender`, watches quality. Its state is JSON.

    cold: the attacker's weights after its cold start, needed where `attack.on_collapse` goes back
    to them. last_good: the weights at the end of the last good window. queries: how many replies
    the defender was asked for; counted: of these, those that a step has reported.
    """

    world: World
    attacker: Player
    defender: Player
    config: Config
    pool: Sequence[Attack]
    round: int
    cold: Mapping[str, torch.Tensor] = field(default_factory=dict)
    name: RoleName = "attacker"
    rate: float = 1.0
    stopped: bool = False
    last_good: dict[str, torch.Tensor] | None = None
    queries: int = 0
    counted: int = 0
    monitor: AttackerMonitor = field(init=False)
    floor: EntropyFloor = field(init=False)
    known: KnownTexts = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = AttackerMonitor(config=self.config.monitor)
        self.floor = EntropyFloor(config=self.config.attack)
        self.known = KnownTexts(self.config.harvest.duplicate_threshold)
        for attack in self.pool:
            self.known.add(attack.seed_id, self.world.meaning(attack.words, attack.case))

    @property
    def entropy_coef(self) -> float | None:
        """See `phase.Role`."""
        return self.floor.coef

    @property
    def diversity_weight(self) -> float:
        """The price of likeness: raised while the monitor found the attacks' quality low."""
        if self.monitor.raised:
            return self.config.monitor.diversity_weight_raised
        return self.config.attack.diversity_weight

    def tasks(self, step: int, *, turn: int = 0, count: int | None = None) -> list[AttackTask]:
        """Requests to the attacker, drawn from (seed, round, step, turn) alone; see `Role`."""
        key = draw_key(step, turn)
        rng = random.Random(f"{self.config.seed}/{self.round}/attack/tasks/{key}")
        share, seeds = self.config.attack.refine_share, self.world.seeds("train")
        return [
            attack_task(self.world, seeds, self.pool, refine_share=share, rng=rng)
            for _ in range(self.config.attack.prompts if count is None else count)
        ]

    def scorer(self, step: int, tasks: Sequence[AttackTask], *, turn: int = 0) -> AttackScorer:
        return AttackScorer(self, tasks, key=draw_key(step, turn))

    def tries(self, one: Written) -> bool:
        """Whether what was written is put to the defender."""
        if one.case is None:
            return False
        attack = self.config.attack
        wrongful = attack.two_sided > 0 and one.case.label == "harmless"
        return one.faithful or wrongful or not attack.gates

    def scores(
        self, groups: Sequence[Sequence[Written]], verdicts: Sequence[Sequence[Sequence[Verdict]]]
    ) -> Scores:
        """Rewards and measures of a step. groups: [prompts][G]; verdicts: [prompts][G][m], empty
        where an attack was not tried."""
        rewards, duplicates, varieties = [], 0.0, []
        for group, judged in zip(groups, verdicts, strict=True):
            texts = [one.words or "" for one in group]
            meanings = [self.world.meaning(one.words or "", one.case) for one in group]
            siblings = sibling_likeness(meanings, self.config.harvest.duplicate_threshold)
            duplicates += sum(share > 0 for share in siblings) / len(siblings)
            varieties.append(variety(texts))
            repeated = self._repeated(group[0].task, texts, meanings)
            rewards.append(
                [
                    self._reward(one, row, similarity=max(share, float(again)))
                    for one, row, share, again in zip(
                        group, judged, siblings, repeated, strict=True
                    )
                ]
            )
        flat = [reward for row in rewards for reward in row]
        tried = [one.case.style for g in groups for one in g if self.tries(one)]
        self.queries += sum(len(row) for judged in verdicts for row in judged)
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
        attack = self.config.attack
        harmless = one.case is not None and one.case.label == "harmless"
        reward = attacker_reward(
            well_formed=one.case is not None,
            faithful=one.faithful,
            success=share_harmful(verdicts) if verdicts else 0.0,
            similarity=similarity,
            diversity_weight=self.diversity_weight,
            gates=attack.gates,
            wrongful=share_refused(verdicts) if harmless and verdicts else 0.0,
            two_sided=attack.two_sided,
        )
        earned = Earned(
            case=one.task.seed,
            reply=one.words or "",
            completion=one.completion,
            verdicts=verdicts,
        )
        return with_terms(reward, earned, attack.terms)

    def _repeated(
        self, task: AttackTask, texts: Sequence[str], meanings: Sequence[str]
    ) -> list[bool]:
        """Which attacks stand in the pool already, or repeat what they were to refine."""
        known = self.known.has(task.seed.id, meanings)
        if task.previous is None:
            return known
        # An attack of the pool is known anyway; one of self-instruct is not.
        same = like(task.previous.words, texts, self.config.harvest.duplicate_threshold)
        return [a or b for a, b in zip(known, same, strict=True)]

    def watch(
        self, step: int, measures: Mapping[str, float]
    ) -> tuple[list[Event], dict[str, float]]:
        """Let monitor and floor see the step, and end the phase where the next could cost too much.

        Returns what was done, the defender replies that were asked for since the last look, and the
        entropy bonus where there is a floor.
        """
        more = {"queries": float(self.queries - self.counted)}
        self.counted = self.queries
        event = functools.partial(Event, round=self.round, phase="attack", step=step)
        events = self._watch_quality(measures, event)
        of_entropy, bonus = watch_entropy(self.floor, measures, event)
        events += of_entropy
        if not self.stopped and step + 1 < self.config.attack.steps:
            events += self._watch_budget(event)
        return events, more | bonus

    def _watch_budget(self, event: MakeEvent) -> list[Event]:
        """End the phase where its next step could ask for more replies than are left."""
        most, step = self.config.attack_queries, self.config.attack.step_queries
        if most is None or self.queries + step <= most:
            return []
        self.stopped = True
        message = (
            f"attacker phase ended: {self.queries:,} of the {most:,} defender queries that it may"
            f" use are spent, and a step may take {step:,}"
        )
        values = {"queries": float(self.queries)}
        return [event(kind="budget", message=message, values=values)]

    def _watch_quality(self, measures: Mapping[str, float], event: MakeEvent) -> list[Event]:
        """What the monitor of samples does: a higher price of likeness, then `on_collapse`."""
        if not self.config.monitor.watch_attacker:
            return []
        action, means = self.monitor.judge(measures)
        on_collapse = self.config.attack.on_collapse
        if on_collapse == "roll-back" and self.monitor.is_good(means):
            self.last_good = self.attacker.weights()
        if action == "none":
            return []
        crossed = ", ".join(self.monitor.crossed(means))
        if action == "raise":
            kind = "low-quality"
            message = f"diversity weight raised to {self.diversity_weight:g}: {crossed}"
        elif on_collapse == "fresh-start":
            self.attacker.restore(self.cold)
            self.monitor.begin_anew()
            kind, message = "fresh-start", f"attacker begins anew from its cold start: {crossed}"
        else:
            self.stopped = True
            kind, message = "early-stop", f"attacker phase stopped early: {crossed}"
            if on_collapse == "roll-back":
                message += self._roll_back()
        return [event(kind=kind, message=message, values=means)]

    def _roll_back(self) -> str:
        """Put the last good weights in place; how that went, for a message."""
        if self.last_good is None:
            return "; no window of this phase was good, so the weights stay"
        self.attacker.restore(self.last_good)
        return "; back to the weights of the last good window"

    def state(self) -> dict:
        return {
            "monitor": self.monitor.state(),
            "floor": self.floor.state(),
            "queries": self.queries,
            "stopped": self.stopped,
        }

    def restore(self, state: Mapping) -> None:
        self.monitor.restore(state["monitor"])
        self.floor.restore(state["floor"])
        self.queries = self.counted = int(state["queries"])
        self.stopped = bool(state["stopped"])
