"""Which groups have a signal, which micro-batch a group goes to, and the twins."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from sectow_fast.native.core import core


def select_groups(rewards: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which groups carry a signal: bool [groups], max != min.

    rewards: [N] floats, in order of their groups; offsets: int64 [groups + 1]. Equal rewards give
    exactly no signal, while a bound on the std would take rounding for one. An empty group has
    none.

    >>> select_groups(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 2, 4]))
    array([ True, False])

    Raises ValueError, with the place, for a reward that is not finite and for bad offsets.
    """
    values, ends = _checked_groups(rewards, offsets, "rewards", "biuf")
    if core is None:
        return _select(values, ends)
    return core.select_groups(values, ends)


def select_groups_oracle(rewards: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`select_groups`, group by group."""
    return _select(*_checked_groups(rewards, offsets, "rewards", "biuf"))


def _select(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    groups = (values[a:b] for a, b in itertools.pairwise(ends))
    return np.array([len(one) > 0 and bool(one.max() != one.min()) for one in groups], bool)


def pack_groups(
    prompt_lengths: np.ndarray | Sequence[int],
    completion_lengths: np.ndarray | Sequence[int],
    group_offsets: np.ndarray | Sequence[int],
    token_budget: int,
    ranks: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack groups, as shared-prefix rows, into micro-batches of at most `token_budget` tokens.

    A group costs its prompt once and each of its completions: prompt_lengths [groups],
    completion_lengths [N], group_offsets [groups + 1]. A group over the budget is a pack of its
    own: it cannot be cut without changing it.

    Returns pack int32 [groups] (each group's pack) and rank int32 [packs] (each pack's rank). First
    fit, longest first: at most 11/9 of the least number of packs (Johnson 1973), and within 2 % of
    it where groups are small beside the budget. Ranks get the same number of packs, give or take
    one, and as equal token counts as the fullest-first rule makes them.

    >>> pack_groups([4, 4, 2], [2, 2, 2, 2, 4], [0, 2, 4, 5], token_budget=16)
    (array([0, 0, 1], dtype=int32), array([0, 0], dtype=int32))
    """
    costs = _costs(prompt_lengths, completion_lengths, group_offsets, token_budget, ranks)
    if core is None:
        return _pack(costs, token_budget, ranks)
    return core.pack_groups(costs, token_budget, ranks)


def pack_groups_oracle(
    prompt_lengths: np.ndarray | Sequence[int],
    completion_lengths: np.ndarray | Sequence[int],
    group_offsets: np.ndarray | Sequence[int],
    token_budget: int,
    ranks: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """`pack_groups` by trying every pack for every group."""
    costs = _costs(prompt_lengths, completion_lengths, group_offsets, token_budget, ranks)
    return _pack(costs, token_budget, ranks)


def _costs(prompts: Any, completions: Any, offsets: Any, budget: int, ranks: int) -> np.ndarray:
    lengths = np.asarray(prompts)
    values, ends = _checked_groups(
        completions, offsets, "completion_lengths", "iu", where="group_offsets"
    )
    _check_kind("prompt_lengths", lengths, "iu")
    if lengths.ndim != 1 or len(lengths) != len(ends) - 1:
        raise ValueError(
            f"prompt_lengths: found shape {lengths.shape}, expected [{len(ends) - 1}],"
            " one less than group_offsets"
        )
    for name, found in (("prompt_lengths", lengths), ("completion_lengths", values)):
        if len(found) and found.min() < 0:
            at = int(np.argmin(found))
            raise ValueError(f"{name}[{at}]: found {found[at]}, expected >= 0")
    if budget < 1 or ranks < 1:
        raise ValueError(f"token_budget {budget}, ranks {ranks}: expected both >= 1")
    sums = np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    return lengths.astype(np.int64) + sums[ends[1:]] - sums[ends[:-1]]


def _pack(costs: np.ndarray, budget: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    rooms: list[int] = []
    loads: list[int] = []
    pack = np.zeros(len(costs), np.int32)
    for group in np.argsort(-costs, kind="stable"):
        cost = int(costs[group])
        fits = (i for i, room in enumerate(rooms) if room >= cost)
        bin_ = next(fits, len(rooms))
        if bin_ == len(rooms):
            rooms.append(max(budget, cost))
            loads.append(0)
        rooms[bin_] -= cost
        loads[bin_] += cost
        pack[group] = bin_
    most = -(-len(loads) // ranks)
    free = [(0, number, 0) for number in range(ranks)]
    rank = np.zeros(len(loads), np.int32)
    for bin_ in np.argsort(-np.array(loads, np.int64), kind="stable"):
        tokens, number, count = heapq.heappop(free)
        rank[bin_] = number
        if count + 1 < most:
            heapq.heappush(free, (tokens + loads[bin_], number, count + 1))
    return pack, rank


def _check_kind(name: str, array: np.ndarray, kinds: str) -> None:
    """kinds: NumPy's letters. An empty list is of any kind; an empty array of strings is not."""
    if array.dtype.kind not in kinds and not (array.size == 0 and array.dtype == np.float64):
        expected = "whole numbers" if kinds == "iu" else "numbers"
        raise ValueError(f"{name}: found {array.dtype}, expected {expected}")


def _checked_groups(
    values: Any, offsets: Any, name: str, kinds: str, *, where: str = "offsets"
) -> tuple[np.ndarray, np.ndarray]:
    array, ends = np.asarray(values), np.asarray(offsets)
    _check_kind(name, array, kinds)
    if array.ndim != 1:
        raise ValueError(f"{name}: found shape {array.shape}, expected [N]")
    if ends.ndim != 1 or not np.issubdtype(ends.dtype, np.integer) or not len(ends):
        raise ValueError(
            f"{where}: found {ends.dtype} of shape {ends.shape}, expected int64 [groups + 1]"
        )
    steps = np.diff(ends)
    if ends[0] != 0 or ends[-1] != len(array) or (len(steps) and steps.min() < 0):
        at = int(np.argmin(steps)) + 1 if len(steps) and steps.min() < 0 else len(ends) - 1
        at = 0 if ends[0] != 0 else at
        raise ValueError(
            f"{where}[{at}]: found {ends[at]}, expected to rise from 0 to {len(array)}, the length"
            f" of {name}"
        )
    array = np.ascontiguousarray(array, np.float64)
    if not np.isfinite(array).all():
        at = int(np.argmax(~np.isfinite(array)))
        raise ValueError(f"{name}[{at}]: found {array[at]}, expected a finite number")
    return array, np.ascontiguousarray(ends, np.int64)
