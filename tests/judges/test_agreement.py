"""Cohen's kappa of two judges."""

from __future__ import annotations

import math
import random

import pytest

from sectow_fast.judges import agreement


def test_kappa_of_a_known_table():
    # By hand: observed 0.70, chance .5 x .6 + .3 x .3 + .2 x .1 = 0.41.
    table = [[88, 10, 2], [14, 40, 6], [18, 10, 12]]
    pairs = [(a, b) for a in range(3) for b in range(3) for _ in range(table[a][b])]
    random.Random(0).shuffle(pairs)
    found = agreement([str(a) for a, _ in pairs], [str(b) for _, b in pairs])
    assert found.n == 200 and found.agree == pytest.approx(0.70)
    assert found.kappa == pytest.approx((0.70 - 0.41) / (1 - 0.41))
    counts = {f"{a}/{b}": table[a][b] for a in range(3) for b in range(3)}
    assert list(found.table.items()) == list(counts.items())


def test_kappa_is_one_for_equal_labels_and_nan_for_one_label_only():
    assert agreement(["safe", "unsafe"], ["safe", "unsafe"]).kappa == 1
    assert math.isnan(agreement(["safe"] * 3, ["safe"] * 3).kappa)
    assert agreement(["safe", "safe"], ["unsafe", "unsafe"]).kappa == 0


@pytest.mark.parametrize(("first", "second"), [(["safe"], []), ([], ["safe"]), ([], [])])
def test_nothing_to_compare_is_refused_with_the_counts(first, second):
    with pytest.raises(ValueError, match=f"found {len(first)} and {len(second)} labels, expected"):
        agreement(first, second)
