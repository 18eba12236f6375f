"""What every engine can do. Token ids in, token ids out; nothing is ever re-tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sectow_fast.types import Completion, Prompt, Sampling


class Engine(Protocol):
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """n completions of each prompt, in order. `seed` fixes every draw, with the prompt's number
        in the whole batch: its place here, or `numbers` where this is a part of one."""
        ...

    def sync(self, model: Any) -> None:
        """Roll out with `model`'s present weights from now on."""
        ...

    def sleep(self) -> None:
        """Give the device's memory back while training runs."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...
