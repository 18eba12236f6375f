"""Stage 4: one GRPO update of a vision-language model, its rows laid out in three ways."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from training_contenders import Update

from bench.gpu_check.check import Check, Failed, Row, short
from bench.gpu_check.qwen import QwenScene
from sectow_fast.learn.attention import BACKENDS
from sectow_fast.types import UserError


def run(check: Check) -> Iterator[Row]:
    """Padded rows first: the gradients of all others are held against theirs."""
    broken: list[str] = []
    for group_size in check.sizes.groups:
        scene = check.scene(group_size)
        contenders = [("padded", "sdpa"), ("unshared", "auto")]
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
                yield row | _measured(check, scene, update, truth)
            except (UserError, check.device.api.OutOfMemoryError) as error:
                yield row | {"absent": str(error).splitlines()[0]}
            except Exception as error:  # the other layouts and backends go on
                broken.append(f"{row['name']}: {error}")
                yield row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            finally:
                update = None
                check.device.empty()
    if broken:
        raise Failed("; ".join(broken))


def _measured(
    check: Check, scene: QwenScene, update: Update, truth: dict[str, torch.Tensor]
) -> Row:
    device = check.device
    update(keep=True)
    found, update.gradients = update.gradients, {}
    if not truth:
        truth |= found
    agreement = compared(found, truth)
    del found
    times = device.timed(update, warm=1, repeats=min(3, check.sizes.repeats))
    speed = round(scene.tokens / times["seconds"])
    return {"backend": update.policy.backend, **times, "tokens/s": speed, **agreement}


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
