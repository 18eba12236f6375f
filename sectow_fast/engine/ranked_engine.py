"""One engine a rank: each rank rolls out its share of the prompts, and all are told everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sectow_fast.engine.protocol import Engine
from sectow_fast.types import Completion, Prompt, Sampling


class RankedEngine:
    """`engine` on every rank, as one.

    ranks: who is who (learn/ranks.py). whole: the full weights of a sharded model. Draws depend on
    a prompt's number in the whole batch, so any number of ranks samples the same completions.
    """

    def __init__(
        self, engine: Any, ranks: Any, *, whole: Callable[[Any], Mapping[str, torch.Tensor]]
    ) -> None:
        self.engine: Engine = engine
        self.ranks, self.whole = ranks, whole

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine`."""
        rank, world = self.ranks.rank, self.ranks.world
        every = list(range(len(prompts))) if numbers is None else list(numbers)
        mine = self.engine.generate(
            prompts[rank::world], n=n, sampling=sampling, seed=seed, numbers=every[rank::world]
        )
        out: list[list[Completion]] = [[] for _ in prompts]
        for number, theirs in enumerate(self.ranks.gathered(mine)):
            out[number::world] = theirs
        return out

    def sync(self, model: Any) -> None:
        """Gather `model`'s weights into the engine's copy, where it has one. All ranks must come;
        an engine that takes sharded weights gathers them itself, when it next draws."""
        if self.engine.model is not model:
            copies = self.engine.model.state_dict()
            for name, value in self.whole(model).items():
                copies[name].copy_(value)
        self.engine.sync(self.engine.model)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()
