"""The attacker's role in a GRPO phase: write new attacks, refine old ones, beat the defender."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sectow_fast.config import Config
from sectow_fast.game.monitors import AttackerMonitor
from sectow_fast.game.player import Player, judged_replies
from sectow_fast.game.rewards import attacker_reward
from sectow_fast.game.stream import Relay, Trial, can_stream
from sectow_fast.game.text import KnownTexts, like, sibling_likeness, variety
from sectow_fast.types import (
    Attack,
    Case,
    Completion,
    Event,
    Reward,
    RoleName,
    Sampling,
    Verdict,
    World,
)


def attack_task(
    world: World, seeds: Sequence[Case], pool: Sequence[Attack], share: float, rng: random.Random
) -> tuple[Case, Case, Attack | None]:
    """One (request to the attacker, seed, attack to refine): refine with probability `share`.

    Before anything was kept, an attack to refine is the self-instruct attacker's.
    """
    seed = rng.choice(seeds)
    previous = None
    if rng.random() < share:
        mine = [attack for attack in pool if attack.seed_id == seed.id]
        if mine:
            previous = rng.choice(mine)
        else:
            words = world.self_instruct(seed, rng)
            previous = Attack(
                case=seed, seed_id=seed.id, mode="self-instruct", words=words, round=0
            )
    return world.attacker_case(seed, previous), seed, previous


@dataclass(kw_only=True)
class AttackerRole:
    """Draws tasks, scores what was written on `defender`, watches quality. JSON state only."""

    world: World
    attacker: Player
    defender: Player
    config: Config
    pool: Sequence[Attack]
    round: int
    name: RoleName = "attacker"
    stopped: bool = False
    _tasks: list = field(default_factory=list)
    _step: int = 0
    _made: dict = field(default_factory=dict)  # (prompt, sample) -> case, while streaming
    _trial: Trial | None = None

    def __post_init__(self) -> None:
        self.monitor = AttackerMonitor(config=self.config.monitor)
        self.seeds = self.world.seeds("train")
        self._known = KnownTexts(self.config.harvest.duplicate_threshold)
        for attack in self.pool:
            self._known.add(attack.seed_id, attack.words)

    @property
    def diversity_weight(self) -> float:
        config = self.config
        if self.monitor.raised:
            return config.monitor.diversity_weight_raised
        return config.attack.diversity_weight

    def tasks(self, step: int) -> list[Case]:
        """The step's requests to the attacker, drawn from (seed, round, step) alone."""
        rng = random.Random(f"{self.config.seed}/{self.round}/attack/tasks/{step}")
        share = self.config.attack.refine_share
        self._tasks = [
            attack_task(self.world, self.seeds, self.pool, share, rng)
            for _ in range(self.config.attack.prompts)
        ]
        self._step, self._made, self._trial = step, {}, None
        if can_stream(self.attacker, self.defender):
            self._trial = self._new_trial()
        return [case for case, _, _ in self._tasks]

    def score(
        self, step: int, cases: Sequence[Case], groups: Sequence[Sequence[Completion]]
    ) -> tuple[list[list[Reward]], dict[str, float]]:
        """Rewards [prompts][G] and the step's measures."""
        words = [[self.attacker.words(one) for one in group] for group in groups]
        if self._trial is None:
            made, verdicts = self._tried_together(step, words)
        else:
            made = [[self._made[i, j] for j in range(len(row))] for i, row in enumerate(words)]
            verdicts = self._trial.finish()
        success = {
            key: sum(v.harmful is True for v in row) / len(row) for key, row in verdicts.items()
        }
        rewards: list[list[Reward]] = []
        duplicates = 0.0
        measured: list[dict[str, float]] = []
        for i, texts in enumerate(words):
            written = [text or "" for text in texts]
            likeness = sibling_likeness(written, self.config.harvest.duplicate_threshold)
            duplicates += sum(share > 0 for share in likeness) / len(likeness)
            measured.append(variety(written))
            known = self._in_pool(self._tasks[i], written)
            row = []
            for j in range(len(written)):
                similarity = max(likeness[j], float(known[j]))
                row.append(
                    attacker_reward(
                        well_formed=made[i][j] is not None,
                        faithful=(i, j) in success,
                        success=success.get((i, j), 0.0),
                        similarity=similarity,
                        diversity_weight=self.diversity_weight,
                    )
                )
            rewards.append(row)
        flat = [reward for row in rewards for reward in row]
        info = {
            "faithful": sum(r.parts["faithful"] for r in flat) / len(flat),
            "well_formed": sum(r.parts["well_formed"] for r in flat) / len(flat),
            **{name: sum(one[name] for one in measured) / len(words) for name in measured[0]},
            "duplicates": duplicates / len(words),
            "styles": float(len({made[i][j].style for i, j in success})),
        }
        return rewards, info

    def _tried_together(
        self, step: int, words: Sequence[Sequence[str | None]]
    ) -> tuple[list[list[Case | None]], dict[tuple[int, int], list[Verdict]]]:
        """([prompts][G] cases, verdicts of those on target), all tried at once."""
        key = self._score_key(step)
        rng = random.Random(key)
        made: list[list[Case | None]] = []
        for (_, seed, _), texts in zip(self._tasks, words, strict=True):
            made.append(
                [
                    None
                    if text is None
                    else self.world.realise(text, seed, rng=rng, attack_id=f"{key}/{i}")
                    for i, text in enumerate(texts)
                ]
            )
        tried = {
            (i, j): case
            for i, row in enumerate(made)
            for j, case in enumerate(row)
            if case is not None and case.goal == self._tasks[i][1].goal
        }
        verdicts = judged_replies(
            self.world,
            self.defender,
            list(tried.values()),
            n=self.config.attack.replies,
            sampling=self._reply_sampling(),
            seed=key,
        )
        return made, dict(zip(tried, verdicts, strict=True))

    def rollout_player(self) -> Player:
        """The attacker; where engines run beside each other, each attack is tried as it is done."""
        if not can_stream(self.attacker, self.defender):
            return self.attacker
        relay = Relay(engine=self.attacker.engine, on_done=self._try_one)
        return dataclasses.replace(self.attacker, engine=relay)

    def _try_one(self, i: int, j: int, done: Completion) -> None:
        """One finished attack: make its case and put it to the defender.

        Its randomness is its own: it must not depend on which attack was done first.
        """
        key = f"{self._score_key(self._step)}/{i}/{j}"
        text, seed = self.attacker.words(done), self._tasks[i][1]
        rng = random.Random(key)
        case = text and self.world.realise(text, seed, rng=rng, attack_id=key)
        self._made[i, j] = case or None
        if case and case.goal == seed.goal:
            self._trial.put((i, j), case, seed=key)

    def _new_trial(self) -> Trial:
        return Trial(
            world=self.world,
            defender=self.defender,
            sampling=self._reply_sampling(),
            replies=self.config.attack.replies,
        )

    def _reply_sampling(self) -> Sampling:
        return Sampling(
            temperature=self.config.attack.temperature,
            max_new_tokens=self.config.defend.max_new_tokens,
        )

    def _score_key(self, step: int) -> str:
        return f"{self.config.seed}/{self.round}/attack/score/{step}"

    def _in_pool(self, task: tuple, texts: Sequence[str]) -> list[bool]:
        """Which texts stand in the pool already, or repeat what they were to refine."""
        _, seed, previous = task
        known = self._known.has(seed.id, texts)
        if previous is not None and previous.mode == "self-instruct":
            threshold = self.config.harvest.duplicate_threshold
            same = like(previous.words, texts, threshold)
            known = [a or b for a, b in zip(known, same, strict=True)]
        return known

    def watch(self, step: int, row: Mapping[str, float]) -> tuple[list[Event], dict[str, float]]:
        """Let the monitor see the step; events, and nothing more to log."""
        if "no-attacker-monitor" in self.config.ablate:
            return [], {}
        action, means = self.monitor.judge(row)
        if action == "none":
            return [], {}
        measures = ", ".join(self.monitor.crossed(means))
        if action == "stop":
            self.stopped = True
            kind, message = "early-stop", f"attacker phase stopped early: {measures}"
        else:
            kind = "low-quality"
            message = f"diversity weight raised to {self.diversity_weight:g}: {measures}"
        event = Event(
            kind=kind,
            message=message,
            round=self.round,
            phase="attack",
            step=step,
            values=means,
        )
        return [event], {}

    def state(self) -> dict:
        return {"monitor": self.monitor.state(), "stopped": self.stopped}

    def restore(self, state: Mapping) -> None:
        self.monitor.restore(state["monitor"])
        self.stopped = bool(state["stopped"])
