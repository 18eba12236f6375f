"""Stage 7: TRL's GRPOTrainer beside ours, the same update of the same completions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from training_contenders import Update
from training_runs import Meter, trl_update

from bench.gpu_check.check import Check, Row
from bench.gpu_check.qwen import QwenScene
from bench.gpu_check.stage_kernels import absent

WARM, STEPS = 1, 3


def run(check: Check) -> Iterator[Row]:
    """Seconds of an update, and the most memory beyond what was held before it (model, optimizer's
    state), TRL's first. Where TRL is missing or fails, its row says so and ours follows."""
    scene, device = check.scene(check.sizes.groups[0]), check.device
    steps = min(STEPS, check.sizes.repeats)
    try:
        yield _row("TRL", scene, _theirs(check, scene, steps))
    except Exception as error:
        yield {"name": "TRL"} | absent("TRL", error)
    device.empty()
    found = device.timed(Update(scene, "shared"), warm=WARM, repeats=steps)
    yield _row("ours", scene, found)


def _row(name: str, scene: QwenScene, found: dict[str, float]) -> Row:
    speed = round(scene.tokens / found["seconds"])
    return {"name": name, "tokens": scene.tokens, **found, "tokens/s": speed}


def _theirs(check: Check, scene: QwenScene, steps: int) -> dict[str, float]:
    meter, seconds = Meter(check.device.name), []

    def hand_over(found: dict[str, float]) -> None:
        seconds.append(found["train"])
        meter.turn()

    trainer, _ = trl_update(scene, hand_over, str(check.scratch / "trl"), WARM + steps)
    trainer.train()
    return {
        "seconds": round(statistics.median(seconds[WARM:]), 4),
        "extra_mib": round(max(meter.found[WARM:]), 1),
    }
