"""Stage 4: one GRPO update of a vision-language model, its rows laid out in three ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from training_contenders import Update

from bench.gpu_check.check import Check, Row, judged, short
from bench.gpu_check.qwen import QwenScene
from sectow_fast.learn.attention import BACKENDS
from sectow_fast.types import UserError

# The largest gradient gap that is called the same update. It is our choice: see docs/GPU.md.
SAME = {"float32": 1e-5, "bfloat16": 0.1}
PADDED = "padded"


def run(check: Check) -> Iterator[Row]:
    """Padded rows first: the gradients of all others are held against theirs. Failed, after all
    rows, where one broke, or made another update, or could not be compared."""
    yield from judged(_updates(check), partial(faults, dtype=check.device.precision))


def faults(rows: Sequence[Row], dtype: str) -> list[str]:
    """What is wrong in these rows; one that does not fit or has no backend here is no fault."""
    wrong = [f"{row['name']}: {row['failed']}" for row in rows if "failed" in row]
    return wrong + [
        f"{row['name']}, group {row['group']}: found a gradient gap of {row.get('gradient gap')}"
        f" to padded rows, expected at most {SAME[dtype]}"
        for row in rows
        if "seconds" in row and not row.get("gradient gap", 1.0) <= SAME[dtype]
    ]


def _updates(check: Check) -> Iterator[Row]:
    for group_size in check.sizes.groups:
        scene = check.scene(group_size)
        contenders = [(PADDED, "sdpa"), ("unshared", "auto")]
        contenders += [("shared", backend) for backend in ("auto", *BACKENDS)]
        truth: dict[str, torch.Tensor] = {}
        seen: set[tuple[str, str]] = set()
        for name, backend in contenders:
            row = {"name": f"{name}, {backend}", "group": group_size, "tokens": scene.tokens}
            try:
                update = Update(scene, name, backend=backend)
                if (name, update.policy.backend) in seen:
                    continue  # what auto stood for
                seen.add((name, update.policy.backend))
                agreement = _agreement(update, truth, first=name == PADDED)
                yield row | _timed(check, scene, update) | agreement
            except (UserError, check.device.api.OutOfMemoryError) as error:
                yield row | {"absent": str(error).splitlines()[0]}
            except Exception as error:  # the other layouts and backends go on
                yield row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            finally:
                update = None
                check.device.empty()


def _agreement(update: Update, truth: dict[str, torch.Tensor], *, first: bool) -> dict[str, float]:
    """How far its gradients are from `truth`, which those of the first become; empty without it."""
    update(keep=True)
    found, update.gradients = update.gradients, {}
    if first:
        truth |= found
    return compared(found, truth) if truth else {}


def _timed(check: Check, scene: QwenScene, update: Update) -> Row:
    times = check.device.timed(update, warm=1, repeats=min(3, check.sizes.repeats))
    speed = round(scene.tokens / times["seconds"])
    return {"backend": update.policy.backend, **times, "tokens/s": speed}


def compared(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """The difference's norm over the truth's, for all parameters together and for the worst one."""
    gap = whole = worst = 0.0
    for name, wanted in truth.items():
        difference = float((found[name].float() - wanted.float()).norm())
        size = float(wanted.float().norm())
        gap, whole = gap + difference**2, whole + size**2
        worst = max(worst, difference / max(size, 1e-30))
    values = {"gradient gap": (gap / whole) ** 0.5, "worst parameter": worst}
    return {name: short(value) for name, value in values.items()}
