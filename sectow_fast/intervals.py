"""Intervals over cases that speak of the same objects: a bootstrap over the objects.

A suite of 300 cases about 10 objects has 10 independent things in it, so Wilson's interval over 300
would be far too narrow. Objects are drawn with replacement, each with all of its cases in all of
the suites (Efron & Tibshirani 1993, the percentile interval), 2,000 times, from one fixed counter-
based stream: an interval is a pure function of the cases.

Two corners. Where every case has an object of its own, cases are independent and Wilson's interval
over them is used. Where all cases agree (none harmful, or all), resampling finds no spread at all,
though a few objects prove little; then the interval is Wilson's with the objects as trials, which
is the widest that shares in 0..1 can have. With few objects percentile intervals are a little too
narrow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from sectow_fast.types import Case, Rate, wilson

RESAMPLES = 2000
KEY = 0x5EC70  # of the stream, the same for every interval
Values = Sequence[tuple[str, float | None]]  # (object, value in 0..1) per case; None: not judged


@functools.lru_cache(maxsize=8)
def resamples(objects: int) -> np.ndarray:
    """int [RESAMPLES, objects]: which objects each resample is made of."""
    stream = np.random.Generator(np.random.Philox(key=KEY))
    return stream.integers(0, objects, (RESAMPLES, objects))


@functools.lru_cache(maxsize=2)
def times_drawn(objects: int) -> np.ndarray:
    """float64 [RESAMPLES, objects]: how often each object is in each resample."""
    rows = [np.bincount(row, minlength=objects) for row in resamples(objects)]
    return np.stack(rows).astype(np.float64)


def object_of(case: Case) -> str:
    """What a case has in common with others: its object, else its goal, else nothing."""
    return case.about or case.goal or case.id


def cluster_interval(suites: Sequence[Values]) -> Rate:
    """The mean over suites of each suite's mean, with a 95 % interval by bootstrap over objects.

    A suite without a judged case is left out. NaN where none has any.

    >>> rate = cluster_interval([[("bado", 0.0)] * 30 + [("kilo", 1.0)] * 30])
    >>> rate.value, rate.n, rate.objects, rate.low, rate.high
    (0.5, 60, 2, 0.0, 1.0)
    """
    judged = [[(name, v) for name, v in rows if v is not None] for rows in suites]
    unknown = sum(map(len, suites)) - sum(map(len, judged))
    judged = [rows for rows in judged if rows]
    cases = [row for rows in judged for row in rows]
    names = sorted({name for name, _ in cases})
    n, objects = len(cases), len(names)
    if not n:
        return Rate(**wilson(0, 0, unknown).as_dict() | {"objects": 0})
    values = [value for _, value in cases]
    mean = sum(sum(v for _, v in rows) / len(rows) for rows in judged) / len(judged)
    if objects == n and len(judged) == 1:
        bounds = wilson(sum(values), n)
    elif min(values) == max(values) in (0.0, 1.0):
        bounds = wilson(objects * mean, objects)
    else:
        place = {name: at for at, name in enumerate(names)}
        tables = np.zeros((2, len(judged), objects))  # sums of values, and how many
        for number, rows in enumerate(judged):
            for name, value in rows:
                tables[:, number, place[name]] += value, 1.0
        sums, counts = tables @ times_drawn(objects).T  # [suites, RESAMPLES]
        with np.errstate(invalid="ignore"):
            shares = sums / counts  # NaN where a resample has no object of a suite
        found = np.nanmean(shares[:, (counts > 0).any(0)], axis=0)
        low, high = np.quantile(found, (0.025, 0.975))
        return _rate(mean, n, float(low), float(high), unknown=unknown, objects=objects)
    return _rate(mean, n, bounds.low, bounds.high, unknown=unknown, objects=objects)


def object_interval(
    values: Sequence[float],
    *,
    n: int,
    statistic: Callable[..., np.ndarray] = np.mean,
) -> Rate:
    """`statistic` of one value per object, with its bootstrap interval over the objects.

    n: how many attacks the values are made of. statistic: as `numpy.mean`, with an `axis`.
    """
    row = np.asarray(values, dtype=np.float64)
    found = statistic(row[resamples(len(row))], axis=-1)
    low, high = np.quantile(found, (0.025, 0.975))
    return _rate(float(statistic(row, axis=-1)), n, float(low), float(high), objects=len(row))


def _rate(value: float, n: int, low: float, high: float, *, objects: int, unknown: int = 0) -> Rate:
    """Bounds in 0..1 that hold the value, whatever rounding did."""
    low, high = max(0.0, min(low, value)), min(1.0, max(high, value))
    return Rate(value=value, n=n, low=low, high=high, unknown=unknown, objects=objects)
