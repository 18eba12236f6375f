"""The two quality monitors. Each holds plain JSON state, so that a resumed run goes on exactly.

What they watch is the paper's; thresholds, hysteresis and actions are our choice (no source gives
them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sectow_fast.config import MonitorConfig

Action = Literal["none", "raise", "lower", "roll-back", "stop"]


@dataclass(kw_only=True)
class DefenderMonitor:
    """Strategy monitoring: the over-refusal rate (ORR) on a held-out harmless probe.

    Over `orr_max` the harmless share is raised until ORR is under `orr_ok`; over `orr_hard` the
    last good weights come back.
    """

    config: MonitorConfig
    raised: bool = False

    def judge(self, orr: float) -> Action:
        if orr > self.config.orr_hard:
            self.raised = True
            return "roll-back"
        if orr > self.config.orr_max and not self.raised:
            self.raised = True
            return "raise"
        if orr < self.config.orr_ok and self.raised:
            self.raised = False
            return "lower"
        return "none"

    def is_good(self, orr: float) -> bool:
        """Whether the weights of this moment may be rolled back to."""
        return orr <= self.config.orr_max

    def state(self) -> dict:
        return {"raised": self.raised}

    def restore(self, state: Mapping) -> None:
        self.raised = bool(state["raised"])


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
