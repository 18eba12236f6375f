from __future__ import annotations

import math

import numpy as np
import pytest
from csr import BAD, bad_arrays, csr, documents
from hypothesis import given, settings
from hypothesis import strategies as st

from sectow_fast import native
from sectow_fast.native import text
from sectow_fast.native.text_oracles import distinct_n_oracle, repetition_oracle, self_bleu_oracle

FUNCTIONS = [native.self_bleu, native.distinct_n, native.repetition]


@settings(max_examples=200, deadline=None)
@given(documents(), st.integers(1, 6))
def test_extension_and_twins_agree(rows, n):
    data = csr(rows)
    bleu = native.self_bleu(*data, order=n)
    assert bleu.dtype == np.float64 and bleu.shape == (len(rows),)
    assert ((bleu >= 0) & (bleu <= 1)).all()
    np.testing.assert_allclose(bleu, self_bleu_oracle(*data, n), rtol=1e-12)
    assert native.distinct_n(*data, n=n) == distinct_n_oracle(*data, n)
    np.testing.assert_allclose(native.repetition(*data, n=n), repetition_oracle(*data, n))


@settings(max_examples=60, deadline=None)
@given(documents(most=8), st.randoms(use_true_random=False))
def test_a_permutation_of_documents_permutes_the_answers(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    moved = csr([rows[i] for i in order])
    np.testing.assert_allclose(
        native.self_bleu(*moved), native.self_bleu(*csr(rows))[order], rtol=1e-12
    )
    assert native.distinct_n(*moved) == native.distinct_n(*csr(rows))


@settings(max_examples=60, deadline=None)
@given(documents(most=8), st.integers(1, 1000))
def test_answers_depend_on_which_ids_are_equal_alone(rows, step):
    moved = csr([[token * step + 2**30 for token in row] for row in rows])
    np.testing.assert_array_equal(native.self_bleu(*moved), native.self_bleu(*csr(rows)))
    np.testing.assert_array_equal(native.repetition(*moved), native.repetition(*csr(rows)))


def test_bleu_by_hand():
    # 1-grams 4/5, 2-grams 2/4, 3-grams 1/3, 4-grams 0/2 smoothed to (1/2)/2; equal lengths.
    bleu = native.self_bleu(*csr([[1, 2, 3, 4, 5], [1, 2, 3, 9, 5]]))
    hand = (4 / 5 * 2 / 4 * 1 / 3 * (1 / 2) / 2) ** (1 / 4)
    np.testing.assert_allclose(bleu, [hand, hand])
    # Lengths 4, 2 and 6 are equally far: the shorter reference, so no penalty; clipped counts.
    rows = [[1, 1, 1, 2], [1, 2], [1, 1, 3, 3, 3, 3]]
    bleu = native.self_bleu(*csr(rows), order=1)
    np.testing.assert_allclose(bleu, [3 / 4, 1 * math.exp(1 - 4 / 2), 2 / 6])
    # Two orders without a hit: 1/2, then 1/4.
    bleu = native.self_bleu(*csr([[1, 2, 3], [3, 2, 1]]), order=3)
    np.testing.assert_allclose(bleu, (1 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 3))


def test_bleu_of_copies_strangers_short_and_empty_documents():
    np.testing.assert_allclose(native.self_bleu(*csr([[1, 2, 3]] * 4)), 1.0)
    assert native.self_bleu(*csr([[1, 2], [3, 4], [5, 6]])).tolist() == [0, 0, 0]
    assert native.self_bleu(*csr([[1, 2]])).tolist() == [0]
    assert native.self_bleu(*csr([])).tolist() == []
    assert native.self_bleu(*csr([[], []])).tolist() == [0, 0]
    # One word each: the effective order is 1, whatever was asked for.
    assert native.self_bleu(*csr([[7], [7], []]), order=2**31 - 1).tolist() == [1, 1, 0]


def test_distinct_and_repetition_by_hand():
    rows = [[1, 2, 1, 2], [1, 2], [], [3]]
    assert native.distinct_n(*csr(rows), n=2) == 2 / 4
    assert native.distinct_n(*csr(rows), n=1) == 3 / 7
    assert native.distinct_n(*csr(rows), n=5) == native.distinct_n(*csr([]), n=1) == 0.0
    assert native.repetition(*csr(rows), n=2).tolist() == [1 / 3, 0, 0, 0]
    assert native.repetition(*csr(rows), n=2**31 - 1).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_strided_and_read_only_arrays_are_accepted(function):
    tokens, offsets = csr([[1, 2, 3, 4, 5, 1, 2, 3, 4], [1, 2, 3, 4, 6]])
    expected = function(tokens, offsets)
    wide, cuts = np.repeat(tokens, 2)[::2], np.repeat(offsets, 3)[::3]
    tokens.flags.writeable = offsets.flags.writeable = False
    np.testing.assert_array_equal(function(tokens, offsets), expected)
    np.testing.assert_array_equal(function(wide, cuts), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("tokens", "offsets", "message"), BAD)
def test_bad_arrays_are_named_with_their_position(function, tokens, offsets, message):
    with pytest.raises(ValueError, match=message):
        function(*bad_arrays(tokens, offsets))


def test_repetition_does_not_depend_on_the_thread_count():
    rng = np.random.default_rng(0)
    data = csr([rng.integers(0, 9, rng.integers(0, 40)).tolist() for _ in range(500)])
    expected = repetition_oracle(*data, 2)
    for threads in (0, 1, 2, 7):
        np.testing.assert_allclose(native.repetition(*data, n=2, threads=threads), expected)
    with pytest.raises(ValueError, match="threads: found -1"):
        native.repetition(*data, threads=-1)


def test_the_twins_serve_where_the_extension_is_absent(monkeypatch):
    data = csr([[1, 2, 3, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 1, 2, 3], []])
    functions = [*FUNCTIONS, native.near_duplicates]
    expected = [function(*data) for function in functions]
    monkeypatch.setattr(text, "core", None)
    for function, answer in zip(functions, expected, strict=True):
        np.testing.assert_allclose(function(*data), answer)


def test_orders_out_of_range():
    data = csr([[1, 2]])
    for order in (0, -1, 2**31):
        with pytest.raises(ValueError, match=f"order: found {order}"):
            native.self_bleu(*data, order=order)
        for function in (native.distinct_n, native.repetition):
            with pytest.raises(ValueError, match=f"n: found {order}"):
                function(*data, n=order)


# sacrebleu 2.6.0, sentence_bleu(..., smooth_method="exp", use_effective_order=True,
# tokenize="none") over ids as words; test_bleu_is_sacrebleus makes them again.
KNOWN_ROWS = [
    [5, 1, 4, 4, 2, 0, 3],
    [5, 1, 4, 2, 0, 3, 3, 1],
    [1, 4, 4, 2],
    [0, 3, 3, 1, 5, 1, 4, 2, 0],
    [6],
    [],
]
KNOWN = [0.7289545183625967, 0.9457416090031765, 1.0, 0.7259795291154773, 0.0, 0.0]


def sacrebleus(rows: list[list[int]], order: int = 4) -> list[float]:
    bleu = pytest.importorskip("sacrebleu").BLEU(
        tokenize="none", smooth_method="exp", effective_order=True, max_ngram_order=order
    )
    words = [" ".join(f"w{token}" for token in row) for row in rows]
    return [
        bleu.sentence_score(one, words[:i] + words[i + 1 :]).score / 100
        for i, one in enumerate(words)
    ]


def test_bleu_of_known_documents():
    np.testing.assert_allclose(native.self_bleu(*csr(KNOWN_ROWS)), KNOWN, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_bleu_is_sacrebleus(order, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 6, rng.integers(0, 30)).tolist() for _ in range(12)]
    for some in (rows, KNOWN_ROWS):
        np.testing.assert_allclose(
            native.self_bleu(*csr(some), order=order), sacrebleus(some, order), atol=1e-12
        )
