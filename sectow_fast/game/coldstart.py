"""Supervised phases: the cold start of both roles, and the SFT defender baseline.

Cold start before RL is the paper's; what the lessons hold is the world's, the schedule our choice.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sectow_fast.game.player import Player
from sectow_fast.learn.optim import cosine_lr_at
from sectow_fast.learn.phase import SKIPS_ALLOWED
from sectow_fast.protocols import Lesson, World
from sectow_fast.records import StepRecord
from sectow_fast.types import Event, Prompt, Sampling, UserError

OWN_TEMPERATURE = 0.7  # greedy replies of small models go round in circles
OWN_LEAST = 8


class Pupil(Protocol):
    """One supervised update on (prompt, reply ids) pairs; "skipped" 1 where it was not finite."""

    def teach(
        self, pairs: Sequence[tuple[Prompt, tuple[int, ...]]], *, lr: float
    ) -> Mapping[str, float]: ...


def own_replies(
    world: World, player: Player, *, count: int, max_new_tokens: int, seed: str, wanted: str
) -> dict[str, str]:
    """{case id: the player's own reply} to harmless training requests, where it is an answer.

    It is one where it is no refusal, about what was asked, and not known to be wrong. One that was
    cut counts up to its last whole sentence, so that the model learns to end: a cut reply is no
    help. Taught beside refusals, such replies hold in place what the model can do. wanted: the
    setting that asks for them, for the message.

    UserError where fewer than `OWN_LEAST` of `count` requests have such a reply.
    """
    cases = world.train_cases("harmless")
    drawn = random.Random(seed).sample(cases, min(count, len(cases)))
    sampling = Sampling(temperature=OWN_TEMPERATURE, max_new_tokens=max_new_tokens)
    groups = player.complete(drawn, n=1, sampling=sampling, seed=seed)
    pairs = [
        (case, words)
        for case, (one,) in zip(drawn, groups, strict=True)
        if (words := player.words(one) or whole_sentences(player.codec.decode(one.ids)))
    ]
    verdicts = world.judge_all(pairs)
    found = {
        case.id: words
        for (case, words), verdict in zip(pairs, verdicts, strict=True)
        if not verdict.refused and not verdict.idle and verdict.correct is not False
    }
    if len(found) < OWN_LEAST:
        raise UserError(
            f"{wanted}: found {len(found)} of {len(drawn)} harmless requests to"
            f" which the defender has an answer of its own ({len(pairs)} replies have a whole"
            f" sentence within {max_new_tokens} tokens), expected {OWN_LEAST} or more; raise"
            " defend.max_new_tokens or coldstart.own_replies, or name more harmless data"
        )
    return found


def whole_sentences(text: str) -> str:
    """A text up to the last end of a sentence; "" where it has none.

    >>> whole_sentences("Here it is: 1. Take one. 2. Fold")
    'Here it is: 1. Take one.'
    """
    found = re.match(r"(.*[^\W\d]['\")]?[.!?。！？।])(?=\s|$|[^\s\w])", text, flags=re.DOTALL)
    return found[1] if found else ""


def run_lessons(
    lesson: Lesson,
    *,
    player: Player,
    pupil: Pupil,
    steps: int,
    batch: int,
    lr: float,
    key: str,
    round: int,
    phase: str,
    start: int,
    on_step: Callable[[StepRecord, Sequence[Event]], None],
    skipped: int = 0,
) -> None:
    """Steps `start`..`steps` of SFT on lessons drawn from (key, step) alone; `on_step` saves.

    UserError after three updates in a row whose loss or gradients were not finite; `skipped` is how
    many a resumed run had behind it.
    """
    player.engine.sleep()  # the device is the trainer's for the whole of the phase
    for step in range(start, steps):
        begin = time.perf_counter()
        rng = random.Random(f"{key}/{step}")
        drawn = [lesson(rng) for _ in range(batch)]
        prompts = player.codec.encode([case for case, _ in drawn])
        replies = [player.codec.encode_reply(reply) for _, reply in drawn]
        rate = cosine_lr_at(step, steps, lr)
        metrics = pupil.teach(list(zip(prompts, replies, strict=True)), lr=rate)
        skipped = skipped + 1 if metrics["skipped"] else 0
        seconds = time.perf_counter() - begin
        tokens = sum(len(p.ids) + len(r) for p, r in zip(prompts, replies, strict=True))
        measures = dict(metrics) | {
            "lr": rate,
            "skipped_in_row": float(skipped),
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
        }
        record = StepRecord(
            round=round,
            phase=phase,
            step=step,
            steps=steps,
            seconds={"train": seconds},
            measures=measures,
        )
        on_step(record, [])
        if skipped > SKIPS_ALLOWED:
            raise UserError(
                f"{key}, step {step}: loss or gradients were not finite {skipped} times in a row;"
                " lower coldstart.lr"
            )
    player.engine.sync(player.model)
