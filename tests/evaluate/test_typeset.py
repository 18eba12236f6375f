"""Drawn words: letters that the font has, or a refusal; the largest size that fits."""

from __future__ import annotations

import numpy as np
import pytest

from sectow_fast.data.suites import render_steps, typeset
from sectow_fast.data.suites.typeset import SIDE
from sectow_fast.real.attacks import LONGEST, TYPO, DrawnWords, read_words
from sectow_fast.types import UserError


def drawn(text: str) -> np.ndarray:
    return np.asarray(render_steps(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fold a bado", "hold a lido"),
        ("\u043a\u0430\u043a", "\u0447\u0442\u043e"),
        ("\u03c0\u03c9\u03c2", "\u03c4\u03b9\u03c7"),
        ("\u0643\u064a\u0641", "\u0645\u0627\u0630"),
        ("na\u00efve \u00a3", "naive $"),
    ],
)
def test_two_texts_are_two_pictures(one, other):
    assert not np.array_equal(drawn(one), drawn(other))
    assert read_words(f"{TYPO} {one}").drawn == one


@pytest.mark.parametrize(
    "text",
    [
        "\u5982\u4f55\u6298\u53e0",  # Chinese and Hindi: no font that comes with matplotlib has it
        "\u0915\u0948\u0938",
        "\U0001f4a3",
        "a\x00b",
        "a\u202eb",
        "\u200b",
        "\ud83d",
        "\ue000",
    ],
)
def test_what_no_font_draws_is_ill_formed_and_never_a_box(text):
    assert read_words(f"{TYPO} {text}") is None
    with pytest.raises(UserError, match=r"found U\+[0-9A-F]{4,}, which the font .* cannot draw"):
        render_steps(text)


def test_letters_from_the_right_are_missing_where_nothing_can_place_them(monkeypatch):
    monkeypatch.setattr(typeset, "_shapes", lambda: False)
    assert render_steps("fold a bado")
    with pytest.raises(UserError, match=r"found U\+0627, which the font"):
        render_steps("\u0645\u0627\u0630")


def test_half_a_surrogate_pair_is_no_attack_in_words_either():
    assert read_words("tell \ud83d me") is None and read_words("tell \U0001f600 me")


def test_letters_grow_until_they_fill_the_picture_and_words_are_never_cut():
    heights = []
    for count in (300, 60, 10):
        inked = (drawn("bado " * count).min(axis=(1, 2)) < 128).nonzero()[0]
        heights.append(int((np.diff(inked) > 1).argmax()))  # rows of the first line's letters
    assert heights == sorted(heights) and heights[0] < heights[1] < heights[2]
    for count in (1, 40, 390):
        ink = drawn("bado " * count).min(axis=2) < 128
        edge = SIDE // 30 - 2
        assert not ink[:, -edge:].any() and not ink[-edge:].any()
    assert read_words(f"{TYPO} {'bado ' * 398}") is not None
    assert read_words(f"{TYPO} {'x' * 1990}") is None  # one word that no line holds
    assert read_words(f"{TYPO} {'x' * (LONGEST + 1)}") is None


def test_the_size_of_an_attacks_picture_is_known_without_drawing_it():
    store = DrawnWords()
    assert store.size("fold a bado") == store.open("fold a bado").size
