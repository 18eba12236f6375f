"""Supervised phases: the cold start of both roles, and the SFT defender baseline.

Cold start before RL is the paper's; what the lessons hold is the world's, the schedule our choice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from sectow_fast.game.player import Player
from sectow_fast.types import Case, Event, UserError

Lesson = Callable[[random.Random], tuple[Case, str]]


def run_lessons(
    lesson: Lesson,
    *,
    player: Player,
    optimizer: Any,
    steps: int,
    batch: int,
    lr: float,
    tokens_per_batch: int,
    key: str,
    start: int,
    on_step: Callable[[int, dict[str, Any], list[Event]], None],
) -> None:
    """Steps `start`..`steps` of SFT on lessons drawn from (key, step) alone; `on_step` saves."""
    from sectow_fast.learn.optim import cosine_lr_at, set_lr
    from sectow_fast.learn.placement import at_work
    from sectow_fast.learn.sft import sft_step

    player.engine.sleep()  # the device is the trainer's for the whole of the phase
    skipped = 0
    with at_work(player.policy, optimizer):
        for step in range(start, steps):
            begin = time.perf_counter()
            rate = cosine_lr_at(step, steps, lr)
            set_lr(optimizer, rate)
            rng = random.Random(f"{key}/{step}")
            drawn = [lesson(rng) for _ in range(batch)]
            prompts = player.codec.encode([case for case, _ in drawn])
            replies = [player.codec.encode_reply(reply) for _, reply in drawn]
            pairs = list(zip(prompts, replies, strict=True))
            metrics = sft_step(player.policy, optimizer, pairs, tokens_per_batch=tokens_per_batch)
            seconds = time.perf_counter() - begin
            tokens = sum(len(p.ids) + len(r) for p, r in zip(prompts, replies, strict=True))
            row = metrics | {
                "lr": rate,
                "tokens": tokens,
                "seconds": {"train": seconds},
                "tokens_per_second": tokens / seconds,
            }
            on_step(step, row, [])
            skipped = skipped + 1 if metrics["skipped"] else 0
            if skipped == 3:
                raise UserError(
                    f"{key}, step {step}: loss or gradients were not finite 3 times in a row;"
                    " lower coldstart.lr"
                )
