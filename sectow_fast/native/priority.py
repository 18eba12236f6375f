"""`PrioritySampler`: prompts whose success is uncertain come first; and its twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sectow_fast.native.core import core
from sectow_fast.native.sampling import uniform


class PrioritySampler:
    """Draws prompts by how uncertain their success is: p (1 - p), p by Laplace's rule.

    A prompt that always or never succeeds gives a group without a signal; p = 1/2 gives the most.
    What was never tried counts as 1/2. A share `exploration` of the draws is uniform. Strata (int32
    [size], a category's number 0..k-1) take turns. Statistics fade by `decay` with each update,
    since the policy moves. Draws depend on (seed, step) and the statistics alone, so `state` is all
    that a resumed run needs. This is our choice; the closest works are prioritised level replay,
    and DAPO's dynamic sampling, which draws uniformly and drops groups without a signal.

    >>> sampler = PrioritySampler(4, seed=0)
    >>> sampler.update([0, 1], successes=[8, 4], trials=[8, 8])
    >>> sorted(sampler.sample(4, step=0).tolist())
    [0, 1, 2, 3]
    """

    def __init__(
        self,
        size: int,
        *,
        strata: np.ndarray | Sequence[int] | None = None,
        seed: int,
        exploration: float = 0.1,
        decay: float = 0.9,
    ) -> None:
        if size < 1:
            raise ValueError(f"size: found {size}, expected >= 1")
        if not 0 <= exploration <= 1 or not 0 < decay <= 1:
            raise ValueError(
                f"exploration {exploration}, decay {decay}: expected 0..1, and 0 < decay <= 1"
            )
        kinds = np.zeros(size, np.int32) if strata is None else np.asarray(strata)
        if kinds.shape != (size,) or not np.issubdtype(kinds.dtype, np.integer):
            raise ValueError(f"strata: found {kinds.dtype} {kinds.shape}, expected int32 [{size}]")
        count = int(kinds.max()) + 1
        used = np.unique(kinds)
        if not np.array_equal(used, np.arange(count)):
            raise ValueError(f"strata: found {used[:8].tolist()}, expected every number 0..k-1")
        self._size = size
        arguments = (np.ascontiguousarray(kinds, np.int32), count, seed % 2**64, exploration, decay)
        self._core = PlainSampler(*arguments) if core is None else core.PrioritySampler(*arguments)

    def __len__(self) -> int:
        return self._size

    def sample(self, n: int, *, step: int) -> np.ndarray:
        """n different prompts, int64 [n]."""
        if not 0 <= n <= self._size:
            raise ValueError(f"n: found {n}, expected 0..{self._size}")
        if step < 0:
            raise ValueError(f"step: found {step}, expected >= 0")
        return self._core.sample(n, step)

    def update(self, prompts: Any, *, successes: Any, trials: Any) -> None:
        """Add results of prompts [M]: successes [M] of trials [M], both floats."""
        places = np.ascontiguousarray(prompts, np.int64)
        won = np.ascontiguousarray(successes, np.float64)
        tried = np.ascontiguousarray(trials, np.float64)
        if not places.shape == won.shape == tried.shape or places.ndim != 1:
            raise ValueError(
                f"prompts {places.shape}, successes {won.shape}, trials {tried.shape}:"
                " expected one shape [M]"
            )
        wrong = (places < 0) | (places >= self._size) | ~((won >= 0) & (won <= tried))
        wrong |= ~np.isfinite(tried)
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(
                f"update[{at}]: found prompt {places[at]}, {won[at]} of {tried[at]}, expected a"
                f" prompt in 0..{self._size - 1} and 0 <= successes <= trials"
            )
        self._core.update(places, won, tried)

    def state(self) -> dict[str, list[float]]:
        """The statistics as plain JSON; `restore` takes them back bit for bit."""
        successes, trials = self._core.successes(), self._core.trials()
        return {"successes": list(map(float, successes)), "trials": list(map(float, trials))}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        successes = np.array(state["successes"], np.float64)
        trials = np.array(state["trials"], np.float64)
        if successes.shape != (self._size,) or trials.shape != (self._size,):
            raise ValueError(
                f"state: found {len(successes)} and {len(trials)} prompts, expected {self._size};"
                " it belongs to other data"
            )
        self._core.restore(successes, trials)


class PlainSampler:
    """The twin of `core.PrioritySampler`: the same draws, with every sum computed again."""

    def __init__(
        self, strata: np.ndarray, count: int, seed: int, exploration: float, decay: float
    ) -> None:
        self._strata = [np.flatnonzero(strata == kind) for kind in range(count)]
        self._seed, self._exploration, self._decay = seed, exploration, decay
        self.restore(np.zeros(len(strata)), np.zeros(len(strata)))

    def restore(self, successes: np.ndarray, trials: np.ndarray) -> None:
        self._successes, self._trials = successes.copy(), trials.copy()

    def successes(self) -> np.ndarray:
        return self._successes

    def trials(self) -> np.ndarray:
        return self._trials

    def update(self, prompts: np.ndarray, won: np.ndarray, tried: np.ndarray) -> None:
        for prompt, successes, trials in zip(prompts, won, tried, strict=True):
            self._successes[prompt] = self._decay * self._successes[prompt] + successes
            self._trials[prompt] = self._decay * self._trials[prompt] + trials

    def sample(self, n: int, step: int) -> np.ndarray:
        p = (self._successes + 1) / (self._trials + 2)
        weights = p * (1 - p)
        drawn: list[int] = []
        turn = step % len(self._strata)
        draw = 0
        while len(drawn) < n:
            own = self._strata[turn]
            if not set(own.tolist()) <= set(drawn):
                explores = uniform(self._seed, 2 * draw, step) < self._exploration
                leaves = np.ones(len(own)) if explores else weights[own]
                leaves = np.where(np.isin(own, drawn), 0.0, leaves)
                drawn.append(int(own[_find(leaves, uniform(self._seed, 2 * draw + 1, step))]))
                draw += 1
            turn = (turn + 1) % len(self._strata)
        return np.array(drawn, np.int64)


def _find(leaves: np.ndarray, share: float) -> int:
    """The leaf at `share` of the sum, which is added up pairwise as in the tree of the core."""
    level = np.zeros(1 << max(0, int(len(leaves) - 1).bit_length()))
    level[: len(leaves)] = leaves
    levels = [level]
    while len(levels[-1]) > 1:
        levels.append(levels[-1][0::2] + levels[-1][1::2])
    target = share * levels[-1][0]
    node = 0
    for sums in levels[-2::-1]:
        node *= 2
        if target >= sums[node] and sums[node + 1] > 0:
            target -= sums[node]
            node += 1
    return node
