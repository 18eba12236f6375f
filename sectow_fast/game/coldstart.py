"""Supervised phases: the cold start of both roles, and the SFT defender baseline.

Cold start before RL is the paper's; what the lessons hold is the world's, the schedule our choice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sectow_fast.game.player import Player
from sectow_fast.learn.optim import cosine_lr_at
from sectow_fast.learn.phase import SKIPS_ALLOWED
from sectow_fast.protocols import Lesson
from sectow_fast.records import StepRecord
from sectow_fast.types import Event, Prompt, UserError


class Pupil(Protocol):
    """One supervised update on (prompt, reply ids) pairs; "skipped" 1 where it was not finite."""

    def teach(
        self, pairs: Sequence[tuple[Prompt, tuple[int, ...]]], *, lr: float
    ) -> Mapping[str, float]: ...


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
