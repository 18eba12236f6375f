"""What engines have in common that draw all at once, and those that share the trainer's model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from sectow_fast.engine.protocol import Engine, EngineCodec
from sectow_fast.engine.streams import AtOnce
from sectow_fast.types import Completion, Prompt, Sampling


class AtOnceEngine(ABC):
    """The part of an `Engine` that follows from a `generate` which draws all at once."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """Completions [prompts][n]; see `Engine`."""

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> AtOnce:
        """A stream that draws everything by `generate` when it is first waited for."""
        return AtOnce(
            lambda: self.generate(prompts, n=n, sampling=sampling, seed=seed, numbers=numbers)
        )

    def runs_beside(self, other: Engine) -> bool:
        """No: this process draws for one engine at a time."""
        return False


class InProcessEngine(AtOnceEngine):
    """An `Engine` but for `generate`. Trainer and engine share `model`: `sync` copies nothing.

    A subclass writes `generate`, and puts `self.weight_version` into its completions.
    """

    def __init__(self, model: Any, codec: EngineCodec) -> None:
        self.model, self.codec = model, codec
        self.weight_version = 0

    def sync(self, model: Any) -> None:
        """The weights are shared, so only the version moves."""
        if model is not self.model:
            raise ValueError(
                f"{type(self).__name__} samples from the model it was made with; make a new one"
            )
        self.weight_version += 1

    def sleep(self) -> None:
        """Nothing is held between two calls."""

    def wake(self) -> None:
        """Nothing was given back."""

    def close(self) -> None:
        """Nothing to end: the model belongs to the caller."""
