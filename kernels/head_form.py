"""How a head's products become scores, and which part of the vocabulary this rank holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HeadForm:
    """score = softcap(scale * (product + bias)) / temperature, for token ids first..first + V - 1.

    bias [V] or None; softcap None is off; temperature is one number or one per row [n]. whole: the
    size of the vocabulary over all ranks, V where one rank holds it.
    """

    whole: int
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0
    temperature: float | Tensor = 1.0
    first: int = 0

    def at(self, rows: slice | Tensor) -> HeadForm:
        """The same for some of the rows."""
        if isinstance(self.temperature, Tensor):
            return replace(self, temperature=self.temperature[rows])
        return self

    def each_temperature(self, change: Callable[[Tensor], Tensor]) -> HeadForm:
        """The same with `change` made to the temperatures of rows, where there are any."""
        if isinstance(self.temperature, Tensor):
            return replace(self, temperature=change(self.temperature))
        return self


def column(value: float | Tensor) -> float | Tensor:
    """What broadcasts over the columns of rows [n, V]."""
    return value[:, None] if isinstance(value, Tensor) else value
