"""Likeness and variety of attacks."""

from __future__ import annotations

import pytest

from sectow_fast.game.text import KnownTexts, like, sibling_likeness, variety, words


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


# ---- what counts as a word


@pytest.mark.parametrize(
    ("text", "twin"),
    [
        ("join ba do", "jo\u200bin b\u00ada\u2060 do\ufeff"),  # nothing of it shows
        ("join ba do", "\uff4a\uff4f\uff49\uff4e\u3000ba do"),  # full width
        ("caf\u00e9 \ufb01n", "cafe\u200b\u0301 fin"),
        ("\u6298\u7eb8", "\u6298\u200d\u7eb8\ufe0f"),
    ],
)
def test_texts_that_look_alike_have_the_same_words(text, twin):
    assert words(text) == words(twin)
    assert like(text, [twin], 1.0) == [True]
    known = KnownTexts(1.0)
    assert known.add("s", text) is True and known.add("s", twin) is False


@pytest.mark.parametrize(
    "text",
    [
        "\u8bf7\u544a\u8bc9\u6211\u5982\u4f55\u6298\u7eb8\u9e1f",  # Chinese
        "\u7d19\u3067\u9db4\u3092\u6298\u308b\u306b\u306f\u30cf\u30b5\u30df",  # Japanese
        "\u0e01\u0e23\u0e38\u0e13\u0e32\u0e1a\u0e2d\u0e01\u0e27\u0e34\u0e18\u0e35",  # Thai
        "\u1001\u103b\u102d\u102f\u1037\u1000\u102d\u102f\u1015\u103c",  # Burmese
        "\u1781\u17d2\u1789\u17bb\u17c6\u1785\u1784\u17cb\u179b\u17b6",  # Khmer
        "\u0f56\u0f7c\u0f51\u0f0b\u0f61\u0f72\u0f42\u0f0b\u0f66\u0f7a",  # Tibetan
    ],
)
def test_a_script_without_blanks_is_compared_character_by_character(text):
    assert len(words(text)) == len(text)
    # A letter more leaves most pairs as they were; another order leaves none.
    assert like(text, [text + text[0], text[::-1]], 0.8) == [True, False]
    assert 0 < variety([text, text[:-3] + "xyz"])["diversity"] < 1


def test_scripts_with_blanks_keep_their_words_whole():
    for text in (
        "\ud55c\uad6d\uc5b4\ub294 \ubb50",
        "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
        "na\u00efve \u0438 \u0442\u0430\u043a",
    ):
        assert words(text) == text.split()


def test_in_ascii_words_are_what_stands_between_blanks():
    text = "Join  ba-do, (now)\t\nx\x1cy 1. <pad>"
    assert words(text) == text.split()
