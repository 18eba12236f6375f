from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectow_fast.native import (
    pack_groups,
    pack_groups_oracle,
    select_groups,
    select_groups_oracle,
)

GROUPS = st.lists(
    st.tuples(st.integers(0, 40), st.lists(st.integers(0, 12), max_size=5)), max_size=40
)


def csr(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, -0.0]), max_size=5), max_size=20))
def test_select_groups_agrees_with_its_twin(rows):
    rewards = np.array([r for row in rows for r in row])
    offsets = csr([len(row) for row in rows])
    kept = select_groups(rewards, offsets)
    assert kept.dtype == bool
    np.testing.assert_array_equal(kept, select_groups_oracle(rewards, offsets))
    assert kept.tolist() == [bool(row) and max(row) != min(row) for row in rows]


def test_rounding_of_equal_rewards_is_no_signal():
    rewards = np.array([0.1 + 0.2, 0.1 + 0.2, 0.3])
    assert select_groups(rewards, np.array([0, 2, 3])).tolist() == [False, False]
    assert select_groups(rewards, np.array([0, 3])).tolist() == [True]


@pytest.mark.parametrize(
    ("rewards", "offsets", "said"),
    [
        ([1.0, np.nan], [0, 2], r"rewards\[1\]: found nan"),
        ([1.0, np.inf], [0, 2], r"rewards\[1\]: found inf"),
        ([1.0], [0, 2], r"offsets\[1\]: found 2"),
        ([1.0, 2.0], [1, 2], r"offsets\[0\]: found 1"),
        ([1.0, 2.0], [0, 2, 1, 2], r"offsets\[2\]: found 1"),
        ([[1.0]], [0, 1], r"rewards: found shape \(1, 1\)"),
        ([1.0], [0.0, 1.0], "offsets: found float64"),
        (["1"], [0, 1], "rewards: found <U1"),
        (np.array([], "<U1"), [0], "rewards: found <U1"),
        (np.array([1], object), [0, 1], "rewards: found object"),
        ([], [], "offsets: found"),
    ],
)
def test_bad_groups_are_named(rewards, offsets, said):
    for function in (select_groups, select_groups_oracle):
        with pytest.raises(ValueError, match=said):
            function(np.array(rewards), np.array(offsets))


@settings(max_examples=80, deadline=None)
@given(GROUPS, st.integers(1, 80), st.integers(1, 4))
def test_pack_groups_agrees_with_its_twin_and_keeps_the_budget(groups, budget, ranks):
    prompts = [prompt for prompt, _ in groups]
    completions = [one for _, row in groups for one in row]
    offsets = csr([len(row) for _, row in groups])
    pack, rank = pack_groups(prompts, completions, offsets, budget, ranks)
    twin_pack, twin_rank = pack_groups_oracle(prompts, completions, offsets, budget, ranks)
    np.testing.assert_array_equal(pack, twin_pack)
    np.testing.assert_array_equal(rank, twin_rank)
    costs = [prompt + sum(row) for prompt, row in groups]
    for number in range(len(rank)):
        inside = [cost for cost, p in zip(costs, pack, strict=True) if p == number]
        assert inside
        assert sum(inside) <= budget or len([c for c in inside if c]) == 1
    if len(rank):
        counts = np.bincount(rank, minlength=ranks)
        assert counts.max() <= -(-len(rank) // ranks)


def test_packs_of_small_groups_are_within_two_percent_of_the_least_number():
    rng = np.random.default_rng(0)
    prompts, completions = rng.integers(20, 300, 5000), rng.integers(1, 65, 40_000)
    offsets = np.arange(0, 40_001, 8)
    pack, rank = pack_groups(prompts, completions, offsets, 16_384, ranks=4)
    total = int(prompts.sum() + completions.sum())
    assert len(rank) <= 1.02 * total / 16_384 + 1
    costs = prompts + np.add.reduceat(completions, offsets[:-1])
    loads = np.bincount(rank[pack], weights=costs, minlength=4)
    assert loads.max() - loads.min() <= 16_384


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1], [1], [0, 1], 0), "token_budget 0"),
        (([1], [1], [0, 1], 8, 0), "ranks 0"),
        (([1, 2], [1], [0, 1], 8), r"prompt_lengths: found shape \(2,\)"),
        (([True], [1], [0, 1], 8), "prompt_lengths: found bool"),
        ((["a"], [1], [0, 1], 8), "prompt_lengths: found <U1"),
        (([1], [1.5], [0, 1], 8), "completion_lengths: found float64"),
        (([-1], [1], [0, 1], 8), r"prompt_lengths\[0\]: found -1"),
        (([1], [2, -3], [0, 2], 8), r"completion_lengths\[1\]: found -3"),
    ],
)
def test_bad_lengths_are_named(arguments, said):
    for function in (pack_groups, pack_groups_oracle):
        with pytest.raises(ValueError, match=said):
            function(*arguments)
