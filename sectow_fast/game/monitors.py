"""The monitor of the attacker's samples, and the floor of entropy. Each holds plain JSON state, so
that a resumed run goes on exactly. The defender's monitor is in `over_refusal.py`.

What they watch is the paper's; thresholds, hysteresis and actions are our choice (no source gives
them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sectow_fast.config import GRPOConfig, MonitorConfig
from sectow_fast.game.over_refusal import Action
from sectow_fast.types import Event

MakeEvent = Callable[..., Event]  # its place is known: kind, message and values are given


@dataclass(kw_only=True)
class AttackerMonitor:
    """Sample-quality monitoring: faithful, well-formed and diverse, over a window of steps.

    A low window raises the diversity weight; `patience` low windows in a row stop the phase early
    (what is good is kept by the filter).
    """

    config: MonitorConfig
    raised: bool = False
    low_in_a_row: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def judge(self, row: Mapping[str, float]) -> tuple[Action, dict[str, float]]:
        """Take one step's measures; once a window: what to do, and the window's means."""
        self.rows.append({name: row[name] for name in self.floors() | self.ceilings()})
        if len(self.rows) < self.config.window:
            return "none", {}
        means = {
            name: sum(row[name] for row in self.rows) / len(self.rows) for name in self.rows[0]
        }
        self.rows.clear()
        low = bool(self.crossed(means))
        self.low_in_a_row = self.low_in_a_row + 1 if low else 0
        if self.low_in_a_row >= self.config.patience:
            return "stop", means
        if low and not self.raised:
            self.raised = True
            return "raise", means
        return "none", means

    def is_good(self, means: Mapping[str, float]) -> bool:
        """Whether a window has just ended in which the attacks were good."""
        return bool(means) and not self.crossed(means)

    def begin_anew(self) -> None:
        """Others write from now on; what is raised stays raised."""
        self.low_in_a_row = 0

    def crossed(self, means: Mapping[str, float]) -> list[str]:
        """Each measure beyond its bound, in words."""
        low = [
            f"{name} {means[name]:.2f} under {floor:g}"
            for name, floor in self.floors().items()
            if means[name] < floor
        ]
        high = [
            f"{name} {means[name]:.2f} over {ceiling:g}"
            for name, ceiling in self.ceilings().items()
            if means[name] > ceiling
        ]
        return low + high

    def floors(self) -> dict[str, float]:
        config = self.config
        return {
            "faithful": config.faithful_min,
            "well_formed": config.well_formed_min,
            "diversity": config.diversity_min,
        }

    def ceilings(self) -> dict[str, float]:
        return {"duplicates": self.config.duplicates_max}

    def state(self) -> dict:
        return {
            "raised": self.raised,
            "low_in_a_row": self.low_in_a_row,
            "rows": [dict(row) for row in self.rows],
        }

    def restore(self, state: Mapping) -> None:
        self.raised = bool(state["raised"])
        self.low_in_a_row = int(state["low_in_a_row"])
        self.rows = [dict(row) for row in state["rows"]]


@dataclass(kw_only=True)
class EntropyFloor:
    """Raises the bonus on a policy's entropy while that is under `entropy_min`.

    Each step under the floor adds `entropy_step` to the coefficient, and each step over it takes as
    much away, down to what the settings say. Closest work: Skywork-OR1's adaptive coefficient.
    raises: how many steps are added now.
    """

    config: GRPOConfig
    raises: int = 0

    @property
    def coef(self) -> float | None:
        """The coefficient of the next update; None where it is the settings' own."""
        if not self.raises:
            return None
        config = self.config
        return config.loss.entropy_coef + min(
            self.raises * config.entropy_step, config.entropy_most
        )

    def judge(self, entropy: float | None) -> Action:
        """Take one step's entropy in nats; None or NaN: nothing was learnt from, and none known."""
        config = self.config
        if not config.entropy_min or entropy is None or math.isnan(entropy):
            return "none"
        before = self.raises
        if entropy < config.entropy_min:
            most = math.ceil(config.entropy_most / config.entropy_step)
            self.raises = min(before + 1, most)
        else:
            self.raises = max(before - 1, 0)
        if bool(before) == bool(self.raises):
            return "none"
        return "lower" if before else "raise"

    def state(self) -> dict:
        return {"raises": self.raises}

    def restore(self, state: Mapping) -> None:
        self.raises = int(state["raises"])


def watch_entropy(
    floor: EntropyFloor, measures: Mapping[str, float], event: MakeEvent
) -> tuple[list[Event], dict[str, float]]:
    """(an event where the bonus begins to rise or is back, its coefficient where there is a floor).

    measures: of the step; "entropy" stands in it where something was learnt from. event: makes one
    of a kind, a message and values.
    """
    config = floor.config
    if not config.entropy_min:
        return [], {}
    entropy = measures.get("entropy")
    action = floor.judge(entropy)
    coef = config.loss.entropy_coef if floor.coef is None else floor.coef
    more = {"entropy_coef": coef}
    if action == "none" or entropy is None:
        return [], more
    if action == "raise":
        kind = "low-entropy"
        message = (
            f"entropy {entropy:.3f} under {config.entropy_min:g}: its bonus grows by"
            f" {config.entropy_step:g} per step"
        )
    else:
        kind, message = "low-entropy-ended", f"entropy {entropy:.3f}: its bonus is back to {coef:g}"
    return [event(kind=kind, message=message, values={"entropy": entropy})], more
