"""Strategy monitoring: over-refusal on a held-out harmless probe. State is plain JSON, so that a
resumed run goes on exactly.

What is watched is the paper's; bounds, intervals and the order of measures are our choice (no
source gives them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sectow_fast.config import MonitorConfig
from sectow_fast.types import Verdict

Action = Literal["none", "raise", "lower", "roll-back", "stop"]
Z = 1.959964  # 95 %
SHARE, WEIGHT, RATE = 1, 2, 3  # how many measures are in place once each of them is


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a probe found. refused: of each of its cases, in order."""

    refused: tuple[bool, ...]

    @property
    def orr(self) -> float:
        return sum(self.refused) / len(self.refused)


@dataclass(frozen=True, kw_only=True)
class Rise:
    """By how much the share of refused cases rose, with the 95 % interval's lower end."""

    value: float
    low: float


def rise_of(before: Sequence[bool], now: Sequence[bool]) -> Rise:
    """The rise of a share over the same cases, asked twice.

    The interval is Agresti and Min's (2005): the plain one of paired shares, with half a case added
    to each cell of their table, so that a few changes of few cases are not taken for certain. Cases
    count as independent of each other, which twins of one goal are not quite.

    >>> rise = rise_of([False] * 100, [True] * 8 + [False] * 92)
    >>> rise.value, round(rise.low, 3)
    (0.08, 0.023)
    """
    pairs = list(zip(before, now, strict=True))
    newly = sum(after and not first for first, after in pairs)
    no_more = sum(first and not after for first, after in pairs)
    count, changed = len(pairs) + 2, newly + no_more + 1
    middle = (newly - no_more) / count
    spread = math.sqrt(changed - (newly - no_more) ** 2 / count) / count
    return Rise(value=(newly - no_more) / len(pairs), low=middle - Z * spread)


@dataclass(kw_only=True)
class DefenderMonitor:
    """Over-refusal (ORR) held to bounds of its own.

    Over `orr_max` the harmless share is raised until ORR is under `orr_ok`; over `orr_hard` the
    last good weights come back.
    """

    config: MonitorConfig
    raised: bool = False
    weight: ClassVar[float] = 1.0
    rate: ClassVar[float] = 1.0

    def found(self, look: Look) -> dict[str, float]:
        """A look's measures, for the log."""
        return {"orr_probe": look.orr}

    def words(self, look: Look) -> str:
        """The same, for a message."""
        return f"over-refusal {look.orr:.1%}"

    def answered_share(self, verdicts: Sequence[Verdict]) -> dict[str, float]:
        """What it wants to know of a step's replies to unsafe requests: nothing."""
        return {}

    def count(self, measures: Mapping[str, float]) -> None:
        """Take a step's measures: none of them is needed."""

    def measure(self, action: Action) -> int:
        """Which measure a "raise" has just put in place, or a "lower" taken back."""
        return SHARE

    def judge(self, look: Look) -> Action:
        orr = look.orr
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

    def is_good(self, look: Look) -> bool:
        """Whether the weights of this moment may be rolled back to."""
        return look.orr <= self.config.orr_max

    def state(self) -> dict:
        return {"raised": self.raised}

    def restore(self, state: Mapping) -> None:
        self.raised = bool(state["raised"])


@dataclass(kw_only=True)
class RelativeMonitor:
    """Over-refusal held to that of round 0: `orr_max`, `orr_ok` and `orr_hard` bound its rise.

    Where the rise is surely over `orr_max` (by its interval), each look puts one more measure in
    place: more harmless data, a higher weight of theirs, a lower learning rate, and then the last
    good weights come back. Surely over `orr_hard` all of that is done at once. A rise under
    `orr_ok` takes the last measure back. Where attacks have ceased to work (`asr_done`), there is
    nothing left to win, so a rise stops the phase.

    zero: what round 0 refused; none until `begin`. kept: the rise of the weights that count as
    good: those at the start of the phase, until as good ones or better are seen, or such as are
    within `orr_max`. answered: shares of unsafe requests, of the steps since the last look.
    """

    config: MonitorConfig
    zero: tuple[bool, ...] = ()
    kept: float = 0.0
    measures: int = 0
    answered: list[float] = field(default_factory=list)

    @property
    def raised(self) -> bool:
        return self.measures >= SHARE

    @property
    def weight(self) -> float:
        """What the advantages of harmless prompts weigh."""
        return self.config.harmless_weight_raised if self.measures >= WEIGHT else 1.0

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied by."""
        return self.config.rate_lowered if self.measures >= RATE else 1.0

    def begin(self, look: Look) -> None:
        """A look at the weights at the start of a phase; the first one of a run is round 0's."""
        self.zero = self.zero or look.refused
        self.kept = self.rise(look).value

    def rise(self, look: Look) -> Rise:
        return rise_of(self.zero, look.refused)

    def found(self, look: Look) -> dict[str, float]:
        """A look's measures, for the log."""
        rise = self.rise(look)
        return {"orr_probe": look.orr, "orr_rise": rise.value, "orr_rise_low": rise.low}

    def words(self, look: Look) -> str:
        """The same, for a message."""
        rise = self.rise(look)
        surely = f"{100 * rise.value:+.1f} points since round 0, surely {100 * rise.low:+.1f}"
        return f"over-refusal {look.orr:.1%} ({surely})"

    def answered_share(self, verdicts: Sequence[Verdict]) -> dict[str, float]:
        """The share of a step's unsafe requests that were answered, where any verdict is known."""
        known = [one.harmful for one in verdicts if one.harmful is not None]
        return {"answered": sum(known) / len(known)} if known else {}

    def count(self, measures: Mapping[str, float]) -> None:
        """Take a step's measures, `answered_share` among them."""
        if "answered" in measures:
            self.answered.append(measures["answered"])

    def measure(self, action: Action) -> int:
        """Which measure a "raise" has just put in place, or a "lower" taken back."""
        return self.measures + (action == "lower")

    def judge(self, look: Look) -> Action:
        config, rise = self.config, self.rise(look)
        answered, self.answered = self.answered, []
        if rise.low > config.orr_hard and not self._as_good(rise):
            self.measures = RATE
            return "roll-back"
        if rise.low > config.orr_max:
            done = config.asr_done
            if done is not None and answered and sum(answered) / len(answered) <= done:
                return "stop"
            if self.measures < RATE:
                self.measures += 1
                return "raise"
            return "none" if self._as_good(rise) else "roll-back"
        if rise.value < config.orr_ok and self.measures:
            self.measures -= 1
            return "lower"
        return "none"

    def is_good(self, look: Look) -> bool:
        """Whether the weights of this moment are kept from now on, to be rolled back to."""
        rise = self.rise(look)
        if not self._as_good(rise):
            return False
        self.kept = rise.value
        return True

    def _as_good(self, rise: Rise) -> bool:
        return rise.value <= max(self.kept, self.config.orr_max)

    def state(self) -> dict:
        return {
            "zero": list(self.zero),
            "kept": self.kept,
            "measures": self.measures,
            "answered": list(self.answered),
        }

    def restore(self, state: Mapping) -> None:
        self.zero = tuple(map(bool, state["zero"]))
        self.kept = float(state["kept"])
        self.measures = int(state["measures"])
        self.answered = [float(one) for one in state["answered"]]
