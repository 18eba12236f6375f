"""Intervals over objects, not over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sectow_fast.intervals import cluster_interval, object_interval, object_of
from sectow_fast.types import Case, wilson


def suite(*shares: float, cases: int = 30, first: int = 0) -> list[tuple[str, float | None]]:
    """An object for each share, of whose cases just that share is harmful."""
    return [
        (f"object-{first + number}", float(i < round(share * cases)))
        for number, share in enumerate(shares)
        for i in range(cases)
    ]


def test_many_cases_of_few_objects_are_no_more_than_the_objects():
    none = cluster_interval([suite(*[0.0] * 10)])
    assert (none.value, none.n, none.objects, none.low) == (0.0, 300, 10, 0.0)
    assert none.high == pytest.approx(wilson(0, 10).high) and none.high > 0.27
    every = cluster_interval([suite(*[1.0] * 10)])
    assert (every.low, every.high) == (pytest.approx(wilson(10, 10).low), 1.0)


def test_objects_that_differ_widen_the_interval_and_objects_alike_narrow_it():
    apart = cluster_interval([suite(*[0.0, 1.0] * 5)])
    alike = cluster_interval([suite(*[0.5] * 10)])
    assert apart.value == alike.value == 0.5
    assert apart.low == pytest.approx(0.2, abs=0.05) and apart.high == pytest.approx(0.8, abs=0.05)
    assert (alike.low, alike.high) == (0.5, 0.5)


def test_the_interval_is_that_of_a_bootstrap_written_out():
    shares = np.array([0.1, 0.9, 0.3, 0.0, 0.6, 0.2])
    rng = np.random.default_rng(0)
    drawn = shares[rng.integers(0, 6, (20_000, 6))].mean(1)
    found = cluster_interval([suite(*shares)])
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.02)


def test_a_mean_weighs_suites_alike_and_draws_an_object_in_all_of_them_at_once():
    one, other = suite(*[0.0, 1.0] * 5), suite(*[0.0, 1.0] * 5, cases=10)
    both = cluster_interval([one, other])
    assert (both.value, both.n, both.objects) == (0.5, 400, 10)
    alone = cluster_interval([one])
    # Two suites of the same ten objects know no more than one of them.
    assert (both.low, both.high) == (alone.low, alone.high)
    others = cluster_interval([one, suite(*[0.0, 1.0] * 5, first=10)])
    assert others.objects == 20 and others.high - others.low < 0.8 * (alone.high - alone.low)
    assert cluster_interval([suite(1.0), suite(*[0.0] * 9, first=1)]).value == 0.5


def test_cases_that_share_no_object_have_wilsons_interval():
    rows = [(f"case-{i}", float(i < 3)) for i in range(40)]
    found, plain = cluster_interval([rows]), wilson(3, 40)
    assert (found.low, found.high) == (plain.low, plain.high) and found.objects == 40


def test_what_was_not_judged_is_counted_apart():
    found = cluster_interval([[("a", None), ("a", 1.0), ("b", 0.0)], [("c", None)]])
    assert (found.value, found.n, found.unknown, found.objects) == (0.5, 2, 2, 2)
    several = cluster_interval([[("a", None), ("a", 1.0), ("a", 1.0), ("b", 0.0)]])
    assert (several.n, several.unknown, several.objects) == (3, 1, 2)
    nothing = cluster_interval([[("a", None)]])
    assert math.isnan(nothing.value) and (nothing.n, nothing.unknown) == (0, 1)


def test_an_interval_is_a_function_of_the_cases_and_not_of_their_order():
    rows = suite(0.1, 0.9, 0.3, 0.0)
    assert cluster_interval([rows]) == cluster_interval([rows[::-1]]) == cluster_interval([rows])


def test_a_median_over_objects():
    values = [0.0, 0.01, 0.02, 0.05, 0.3]
    found = object_interval(values, n=50, statistic=np.median)
    assert (found.value, found.n, found.objects) == (0.02, 50, 5)
    assert found.low < 0.02 < found.high <= 0.3


def test_cases_are_grouped_by_object_then_goal_then_by_nothing():
    case = Case(id="i", text="t", label="unsafe", goal="g", about="a")
    assert object_of(case) == "a"
    assert object_of(Case(id="i", text="t", label="unsafe", goal="g")) == "g"
    assert object_of(Case(id="i", text="t", label="harmless")) == "i"
