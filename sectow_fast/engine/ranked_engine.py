"""One engine per rank: each rolls out its share of the prompts, and all are told everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from sectow_fast.engine.protocol import Engine
from sectow_fast.engine.streams import AtOnce
from sectow_fast.types import Completion, Prompt, Sampling


class Gathering(Protocol):
    """The part of `learn/ranks.py` that rollout needs."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def gathered(self, mine: Any) -> list[Any]:
        """Every rank's object, in order of rank, on every rank."""
        ...


@runtime_checkable
class Provable(Protocol):
    """An engine of sharded weights, whose log-probs all ranks compare with the trainer's."""

    @property
    def to_prove(self) -> Sequence[tuple[Prompt, Completion]]:
        """Rows that this rank's engine drew and nobody compared yet."""
        ...

    def prove(
        self,
        rows: Sequence[tuple[Prompt, Completion]],
        sampling: Sampling,
        *,
        gathered: Callable[[Any], list[Any]],
    ) -> None:
        """Compare rows, the same on all ranks. UserError on all ranks where they differ."""
        ...


class RankedEngine:
    """The ranks' engines as one `Engine`. Every rank must make the same calls in the same order.

    whole: (name, full weight) of a sharded model, one at a time. Draws depend on a prompt's number
    in the whole batch, so any number of ranks samples the same completions.
    """

    def __init__(
        self,
        engine: Engine,
        ranks: Gathering,
        *,
        whole: Callable[[Any], Iterable[tuple[str, torch.Tensor]]],
    ) -> None:
        self.engine, self.ranks, self.whole = engine, ranks, whole

    @property
    def model(self) -> Any:
        """What this rank's engine draws from: a whole copy where the trained model is sharded."""
        return self.engine.model

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
        unproven = self.engine.to_prove if isinstance(self.engine, Provable) else ()
        out: list[list[Completion]] = [[] for _ in prompts]
        rows: list[tuple[Prompt, Completion]] = []
        for number, (theirs, first) in enumerate(self.ranks.gathered((mine, tuple(unproven)))):
            out[number::world] = theirs
            rows += first
        if rows:
            # All ranks are here, which the forward of sharded weights needs.
            self.engine.prove(rows, sampling, gathered=self.ranks.gathered)
        return out

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        seed: str,
        numbers: Sequence[int] | None = None,
    ) -> AtOnce:
        """Not as they finish: the ranks meet once, when the stream is first waited for."""
        return AtOnce(
            lambda: self.generate(prompts, n=n, sampling=sampling, seed=seed, numbers=numbers)
        )

    def runs_beside(self, other: Engine) -> bool:
        """No: whatever the ranks' engines can do, all ranks have to meet between two batches."""
        return False

    def sync(self, model: Any) -> None:
        """Gather `model`'s weights into the engine's copy, where it has one.

        An engine that takes sharded weights gathers them itself, when it next draws.
        """
        if self.engine.model is not model:
            copies = self.engine.model.state_dict()
            for name, value in self.whole(model):
                copies[name].copy_(value)
        self.engine.sync(self.engine.model)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()
