"""Stage 7: TRL's GRPOTrainer beside ours, the same update of the same completions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from training_contenders import Update

from bench.gpu_check.check import Check, Row

WARM, STEPS = 1, 3


def run(check: Check) -> Iterator[Row]:
    """Seconds of an update and the most memory beyond the model's, TRL's first."""
    scene, device = check.scene(check.sizes.groups[0]), check.device
    row: Row = {"name": "TRL", "tokens": scene.tokens}
    seconds: list[float] = []
    steps = min(STEPS, check.sizes.repeats)
    try:
        from training_runs import trl_update
    except ImportError as error:
        yield row | {"absent": str(error)}
    else:
        device.reset_peak()
        trainer, _ = trl_update(
            scene,
            lambda found: seconds.append(found["train"]),
            str(check.scratch / "trl"),
            WARM + steps,
        )
        trainer.train()
        del trainer, _
        device.empty()
        median = statistics.median(seconds[WARM:])
        yield (
            row
            | {"seconds": round(median, 4), "peak_mib": device.peak_mib()}
            | {"tokens/s": round(scene.tokens / median)}
        )
    update = Update(scene, "shared")
    device.reset_peak()
    found = device.timed(update, warm=WARM, repeats=steps)
    speed = {"tokens/s": round(scene.tokens / found["seconds"])}
    yield {"name": "ours", "tokens": scene.tokens, **found, "peak_mib": device.peak_mib()} | speed
