from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectow_fast.native import PrioritySampler
from sectow_fast.native.priority import PlainSampler


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 2**64 - 1),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 8)), max_size=30),
)
def test_draws_agree_with_the_twin(size, kinds, seed, exploration, seen):
    kinds = min(kinds, size)
    strata = np.arange(size, dtype=np.int32) % kinds
    options = {"exploration": exploration, "decay": 0.9}
    sampler = PrioritySampler(size, strata=strata, seed=seed, **options)
    twin = PlainSampler(strata, kinds, seed, exploration, 0.9)
    for step, (prompt, won) in enumerate(seen):
        at = np.array([prompt % size])
        sampler.update(at, successes=[won], trials=[8])
        twin.update(at, np.array([float(won)]), np.array([8.0]))
        drawn = sampler.sample(size // 2 + 1, step=step)
        np.testing.assert_array_equal(drawn, twin.sample(size // 2 + 1, step))
    everything = sampler.sample(size, step=99)
    assert sorted(everything.tolist()) == list(range(size))


def test_uncertain_prompts_come_first_and_the_rest_still_comes():
    sampler = PrioritySampler(100, seed=1, exploration=0.2)
    sampler.update(np.arange(90), successes=np.full(90, 6400.0), trials=np.full(90, 6400.0))
    drawn = np.concatenate([sampler.sample(5, step=step) for step in range(400)])
    uncertain = (drawn >= 90).mean()
    assert 0.6 < uncertain < 0.95
    assert len(np.unique(drawn)) > 90


def test_strata_take_turns():
    strata = np.array([0] * 50 + [1] * 3 + [2])
    drawn = PrioritySampler(54, strata=strata, seed=0).sample(12, step=5)
    assert np.bincount(strata[drawn]).tolist() == [8, 3, 1]


def test_a_restored_sampler_draws_what_the_first_would_have_drawn():
    first = PrioritySampler(500, seed=7)
    rng = np.random.default_rng(0)
    for step in range(30):
        drawn = first.sample(20, step=step)
        first.update(drawn, successes=rng.random(20) * 8, trials=np.full(20, 8.0))
    second = PrioritySampler(500, seed=7)
    second.restore(json.loads(json.dumps(first.state())))
    for step in range(30, 40):
        drawn = first.sample(20, step=step)
        np.testing.assert_array_equal(drawn, second.sample(20, step=step))
        for sampler in (first, second):
            sampler.update(drawn, successes=np.ones(20), trials=np.full(20, 8.0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PrioritySampler(0, seed=0), "size: found 0"),
        (lambda: PrioritySampler(2, strata=[0, 2], seed=0), "strata: found"),
        (lambda: PrioritySampler(2, strata=[0], seed=0), "strata: found"),
        (lambda: PrioritySampler(2, seed=0, decay=0.0), "decay 0.0"),
        (lambda: PrioritySampler(2, seed=0).sample(3, step=0), "n: found 3"),
        (lambda: PrioritySampler(2, seed=0).sample(1, step=-1), "step: found -1"),
        (
            lambda: PrioritySampler(2, seed=0).update([2], successes=[0], trials=[1]),
            r"update\[0\]: found prompt 2",
        ),
        (
            lambda: PrioritySampler(2, seed=0).update([0, 1], successes=[0, 2], trials=[1, 1]),
            r"update\[1\]: found prompt 1, 2.0 of 1.0",
        ),
        (
            lambda: PrioritySampler(2, seed=0).update([0], successes=[np.nan], trials=[1]),
            r"update\[0\]",
        ),
        (
            lambda: PrioritySampler(2, seed=0).restore({"successes": [0], "trials": [0]}),
            "state: found 1 and 1",
        ),
    ],
)
def test_bad_calls_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
