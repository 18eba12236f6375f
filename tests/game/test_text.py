"""Likeness and variety of attacks."""

from __future__ import annotations

import pytest

from sectow_fast.game.text import KnownTexts, like, sibling_likeness, variety


def test_likeness_of_siblings_is_the_share_of_the_others_in_its_cluster():
    assert sibling_likeness(["a b", "a b", "c d"], 0.9) == [0.5, 0.5, 0.0]
    assert sibling_likeness(["a b", "c", "a b", "c", "a b"], 0.9) == [0.5, 0.25, 0.5, 0.25, 0.5]
    assert sibling_likeness(["", ""], 0.9) == [1.0, 1.0]
    assert sibling_likeness(["a"], 0.9) == [0.0]
    assert sibling_likeness([], 0.9) == []
    # Three of five pairs of words are shared.
    assert sibling_likeness(["a b c d e", "a b c d f"], 0.6) == [1.0, 1.0]
    assert sibling_likeness(["a b c d e", "a b c d f"], 0.7) == [0.0, 0.0]


def test_near_duplicates_are_told_by_pairs_of_words_in_order():
    assert like("a b c", ["a b c", "c b a", "a b c", ""], 0.99) == [True, False, True, False]
    # Three of five pairs are shared: alike at 0.6, not at 0.7.
    assert like("a b c d e", ["a b c d f"], 0.6) == [True]
    assert like("a b c d e", ["a b c d f"], 0.7) == [False]


def test_variety_is_none_among_copies_and_whole_among_strangers():
    assert variety(["a b c"] * 4)["diversity"] == pytest.approx(0.0)
    assert variety(["a b", "c d", "e f"])["diversity"] == 1.0
    assert 0 < variety(["a b c", "a b d", "x y z"])["diversity"] < 1
    # Three of four words and two of three pairs stand in the other one too (BLEU of order 2).
    found = variety(["a b c d", "a b c e"])["diversity"]
    assert found == pytest.approx(1 - (3 / 4 * 2 / 3) ** 0.5, abs=1e-6)
    assert variety(["a b a b a"])["repetition"] == 0.5
    assert variety(["a b c", "a b"])["distinct_2"] == pytest.approx(2 / 3)
    assert variety([]) == {"diversity": 0.0, "distinct_2": 0.0, "repetition": 0.0}


def test_known_texts_are_kept_by_the_seed_they_attack():
    known = KnownTexts(0.99)
    assert known.has("s", ["a b"]) == [False]
    assert known.add("s", "a b") is True and known.add("s", "a b") is False
    assert known.add("t", "a b") is True
    assert known.has("s", ["a b", "b a", "a  b"]) == [True, False, True]


def test_known_texts_are_told_by_their_threshold():
    loose, strict = KnownTexts(0.6), KnownTexts(0.7)
    for known in (loose, strict):
        known.add("s", "a b c d e")
    assert loose.has("s", ["a b c d f"]) == [True]
    assert strict.has("s", ["a b c d f"]) == [False]
    assert loose.add("s", "a b c d f") is False and strict.add("s", "a b c d f") is True
