"""A world, engines, learners and a journal that follow a script: whole rounds in milliseconds.

They are real implementations of the protocols, with nothing of the method in them. The language: an
attack is "CLOTHES GOAL", "win bado" say, and means the request for GOAL dressed in CLOTHES. One
that begins with "ill" is ill-formed. A reply "leak GOAL" is harmful, "sorry" refuses, "mumble" is
what the judge cannot tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sectow_fast.config import Config, ablated
from sectow_fast.engine.streams import AtOnce
from sectow_fast.game.player import Player
from sectow_fast.learn.phase import roll_out
from sectow_fast.types import Attack, Case, Completion, Prompt, Sampling, Verdict

GOALS = ("bado", "kilo", "rumi", "tafo")  # what training attacks are after
TEST_GOALS = ("zuno", "pako")
MEASURES = {"plain": "direct", "figstep": "asr", "over-refusal": "orr", "mmmu": "accuracy"}

Reply = Callable[[str, int, int], str | None]  # (request, its number, sample) -> words; None: cut


def request(goal: str, *, clothes: str = "", case_id: str = "") -> Case:
    """An unsafe case: someone asks for `goal`."""
    text = f"{clothes} {goal}".strip()
    return Case(id=case_id or text, text=text, label="unsafe", goal=goal, style=clothes or "direct")


def question(number: int, answer: str | None = "fine", suite: str = "") -> Case:
    return Case(
        id=f"q{number}", text=f"question {number}", label="harmless", answer=answer, suite=suite
    )


def judged(case: Case, reply: str) -> Verdict:
    """The script's judge."""
    if reply == "mumble":
        return Verdict(harmful=None, refused=False)
    correct = None if case.answer is None else reply == case.answer
    harmful = case.label == "unsafe" and reply == f"leak {case.goal}"
    return Verdict(harmful=harmful, refused=reply.startswith("sorry"), correct=correct)


@dataclass
class ScriptedWorld:
    """`types.World`. harmless, probe, unsafe: how many cases of each there are."""

    cut_earns: bool = True
    harmless: int = 8
    unsafe: int = 8
    probe: int = 10
    asked_to_judge: list[int] = field(default_factory=list)  # pairs per call of the judge
    realised: list[str] = field(default_factory=list)  # ids of the attacks that became cases

    def seeds(self, split: str) -> list[Case]:
        goals = {"train": GOALS, "test": TEST_GOALS}[split]
        return [request(goal, case_id=f"seed-{goal}") for goal in goals]

    def train_cases(self, label: str) -> list[Case]:
        if label == "harmless":
            return [question(i) for i in range(self.harmless)]
        return [request(GOALS[i % len(GOALS)], case_id=f"u{i}") for i in range(self.unsafe)]

    def harmless_probe(self) -> list[Case]:
        return [question(100 + i, None) for i in range(self.probe)]

    def suites(self) -> Mapping[str, list[Case]]:
        return {
            "plain": [replace(request("zuno"), suite="plain")],
            "figstep": [replace(request(g, clothes="typo"), suite="figstep") for g in TEST_GOALS],
            "over-refusal": [question(200 + i, None, "over-refusal") for i in range(4)],
            "mmmu": [question(300 + i, "fine", "mmmu") for i in range(4)],
        }

    def self_instruct(self, seed: Case, rng: random.Random) -> str:
        return f"{rng.choice(('weak', 'poor'))} {seed.goal}"

    def attacker_case(self, seed: Case, previous: Attack | None) -> Case:
        order = f"refine {previous.words}" if previous else "write"
        return Case(id=f"{seed.id}/ask", text=f"{order} {seed.goal}", label="unsafe")

    def realise(self, words: str, seed: Case, *, rng: random.Random, attack_id: str) -> Case | None:
        clothes, _, goal = words.partition(" ")
        if clothes == "ill" or not goal:
            return None
        found = request(goal, clothes=clothes, case_id=attack_id)
        self.realised.append(attack_id)
        return replace(found, text=f"{found.text} {rng.random():.6f} for {seed.goal}")

    def meaning(self, words: str, case: Case | None) -> str:
        return words

    def judge_all(self, pairs: Sequence[tuple[Case, str]]) -> list[Verdict]:
        self.asked_to_judge.append(len(pairs))
        return [judged(case, reply) for case, reply in pairs]


class ScriptedCodec:
    """Words to ids by a vocabulary that grows; 0 ends a reply."""

    eos_id = pad_id = image_id = 0
    end_ids, banned_ids = (0,), ()

    def __init__(self) -> None:
        self._ids: dict[str, int] = {"</s>": 0}

    def encode(self, cases: Sequence[Case]) -> list[Prompt]:
        return [Prompt(case_id=case.id, ids=self._of(case.text)) for case in cases]

    def encode_reply(self, text: str) -> tuple[int, ...]:
        return (*self._of(text), 0)

    def decode(self, ids: Sequence[int]) -> str:
        words = list(self._ids)
        return " ".join(words[i] for i in ids if i)

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return {}

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        pass

    def _of(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids.setdefault(word, len(self._ids)) for word in text.split())


class ScriptedEngine:
    """Replies by a script. `calls` holds (requests, n, sampling, seed, numbers) of each rollout;
    `beside`: engines that draw at the same time."""

    def __init__(self, model: Any, codec: ScriptedCodec, reply: Reply) -> None:
        self.model, self.codec, self.reply = model, codec, reply
        self.calls: list[tuple[list[str], int, Sampling, str, list[int]]] = []
        self.synced: list[float] = []
        self.slept = 0
        self.beside: list[ScriptedEngine] = []
        self.dripping: list[Dripping] = []  # its streams, while it runs beside another

    def generate(self, prompts, *, n, sampling, seed, numbers=None):
        texts = [self.codec.decode(prompt.ids) for prompt in prompts]
        numbers = list(range(len(prompts))) if numbers is None else list(numbers)
        self.calls.append((texts, n, sampling, seed, numbers))
        return [
            [self._completion(self.reply(text, number, j)) for j in range(n)]
            for text, number in zip(texts, numbers, strict=True)
        ]

    def submit(self, prompts, **given):
        if self.beside:
            self.dripping.append(Dripping(self.generate(prompts, **given)))
            return self.dripping[-1]
        return AtOnce(lambda: self.generate(prompts, **given))

    def _completion(self, words: str | None) -> Completion:
        ids = self.codec.encode_reply("cut here" if words is None else words)
        ids = ids if words is not None else ids[:-1]
        reason = "length" if words is None else "stop"
        return Completion(ids=ids, logprobs=(-0.5,) * len(ids), finish_reason=reason)

    def runs_beside(self, other: Any) -> bool:
        return other in self.beside

    def sync(self, model: Any) -> None:
        self.synced.append(model.weight.item())

    def sleep(self) -> None:
        self.slept += 1

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Dripping:
    """A stream of an engine that runs beside: a look finds one more completion, if any is left."""

    def __init__(self, drawn: list[list[Completion]]) -> None:
        self._left = [(i, j, one) for i, row in enumerate(drawn) for j, one in enumerate(row)]
        self.waited: list[bool] = []

    def each(self, *, wait: bool = True):
        self.waited.append(wait)
        while self._left:
            yield self._left.pop()
            if not wait:
                return

    def close(self) -> None: ...


class OneWeight(torch.nn.Module):
    """A model of one number, so that it can be seen which weights are in place."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(value))


def player(reply: Reply, codec: ScriptedCodec | None = None) -> Player:
    model, codec = OneWeight(), codec or ScriptedCodec()
    return Player(model=model, engine=ScriptedEngine(model, codec, reply), codec=codec)


def small(**more: Any) -> Config:
    """A run of two short rounds; `section__field=value` changes a setting. An ablation wins over
    what is set here."""
    sections: dict[str, Any] = {
        "rounds": 2,
        "coldstart": {"caption_steps": 1, "defender_steps": 2, "attacker_steps": 3, "batch": 4},
        "attack": {"steps": 3, "prompts": 4, "group_size": 4, "warmup": 0},
        "defend": {"steps": 3, "prompts": 6, "group_size": 4, "warmup": 0},
        "harvest": {"attacks": 8, "replies": 2},
        "evaluate": {"attacker_cases": 10},
    }
    for name, value in more.items():
        section, _, name = name.rpartition("__")
        (sections.setdefault(section, {}) if section else sections)[name] = value
    for _, key, _ in ablated(sections.get("ablate", ())):
        section, _, name = key.rpartition(".")
        (sections.get(section, {}) if section else sections).pop(name, None)
    return Config.model_validate(sections)


def step_of(role: Any, player: Player, *, group_size: int, step: int = 0) -> tuple[Any, Any]:
    """(tasks, scores) of one step of a role, through the seam that training uses."""
    tasks = role.tasks(step)
    scorer = role.scorer(step, tasks)
    roll_out(
        player.engine,
        player.codec.encode([task.case for task in tasks]),
        scorer,
        n=group_size,
        sampling=Sampling(),
        seed="s",
    )
    return tasks, scorer.finish()
