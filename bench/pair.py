"""Our step and TRL's in turn, so that the noise of a shared machine affects both alike."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ours import OurStep
from peer import make_trainer
from work import Work

WARM = 2  # steps of each that are not counted


def run_pair(work: Work, folder: Path, *, steps: int) -> dict[str, Any]:
    """A row of the results: `steps` of each, one after the other."""
    ours = OurStep(work, work.model())
    found: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}

    def our_turn(seconds: dict[str, float]) -> None:
        # TRL's own hand-over runs between two of its steps, where its clock stands still.
        trained = int(trainer.batch["completion_mask"].sum())
        found["trl"].append(seconds)
        found["ours"].append(ours())
        if not work.tokens == trained == ours.metrics["tokens"]:
            raise AssertionError(
                f"completion tokens of a step: found {trained} in TRL and"
                f" {ours.metrics['tokens']:.0f} in ours, expected {work.tokens} in both"
            )

    trainer, _ = make_trainer(work, work.model(), folder, our_turn, steps=steps + WARM)
    trainer.train()
    counted = {name: one[WARM:] for name, one in found.items()}
    ratios = [
        theirs["step"] / mine["step"]
        for theirs, mine in zip(counted["trl"], counted["ours"], strict=True)
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "prompts": work.prompts,
        "group_size": work.group_size,
        "completion_tokens": work.tokens,
        "live_groups": work.live_groups,
        "steps": steps,
        **{name: _side(one, work.tokens) for name, one in counted.items()},
        "speedup": round(middle, 3),
        "speedup_quartiles": [round(low, 3), round(high, 3)],
        "speedup_best": round(_best(counted["trl"]) / _best(counted["ours"]), 3),
    }


def _best(steps: list[dict[str, float]]) -> float:
    return min(one["step"] for one in steps)


def _side(steps: list[dict[str, float]], tokens: int) -> dict[str, Any]:
    """Medians; `seconds_best` is the fastest whole step."""
    seconds = {
        phase: round(statistics.median(one[phase] for one in steps), 4) for phase in steps[0]
    }
    return {
        "seconds": seconds,
        "seconds_best": round(_best(steps), 4),
        "tokens_per_second": round(tokens / seconds["step"]),
    }
