from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectow_fast import native

OPTIONS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.5, "top_k": 3},
    {"top_p": 0.9},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 50, "top_p": 0.8, "min_p": 0.01},
]


def draw(rows: int, vocabulary: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(rows).normal(size=(rows, vocabulary)) * scale).astype(np.float32)


def test_the_extension_is_built():
    assert native.HAVE_EXTENSION


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (17, 7), (5, 1000), (2, 151_936)])
def test_extension_and_numpy_twin_agree(shape, options):
    logits = draw(*shape)
    ids, logp = native.sample_tokens(logits, seed=3, step=2, **options)
    twin_ids, twin_logp = native.sample_tokens_oracle(logits, seed=3, step=2, **options)
    assert ids.dtype == np.int32 and logp.dtype == np.float32
    np.testing.assert_array_equal(ids, twin_ids)
    np.testing.assert_allclose(logp, twin_logp, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(0, 2**64 - 1),
    st.integers(0, 9),
    st.floats(0.05, 1.0),
)
def test_twins_agree_with_ties_and_minus_infinity(rows, vocabulary, seed, top_k, top_p):
    rng = np.random.default_rng(seed % 1000)
    logits = rng.integers(-2, 3, (rows, vocabulary)).astype(np.float32)
    logits[rng.random((rows, vocabulary)) < 0.3] = -np.inf
    logits[:, 0] = 0.0
    options = {"top_k": top_k, "top_p": top_p, "seed": seed, "step": 7}
    ids, _ = native.sample_tokens(logits, **options)
    twin, _ = native.sample_tokens_oracle(logits, **options)
    np.testing.assert_array_equal(ids, twin)
    assert np.isfinite(logits[np.arange(rows), ids]).all()


def test_frequencies_are_the_softmax():
    logits = np.array([[0.0, 1.0, 2.0, -1.0]], np.float32)
    count = 40_000
    ids, logp = native.sample_tokens(np.repeat(logits, count, 0), seed=11, step=0)
    wanted = np.exp(logits[0]) / np.exp(logits[0]).sum()
    seen = np.bincount(ids, minlength=4) / count
    chi2 = (count * (seen - wanted) ** 2 / wanted).sum()
    assert chi2 < 16.3  # 0.999 quantile, 3 degrees of freedom
    np.testing.assert_allclose(np.exp(logp), wanted[ids], rtol=1e-5)


def test_a_row_depends_on_its_own_seed_whatever_the_batch():
    logits = draw(8, 50)
    seeds = np.arange(8, dtype=np.uint64) * 977
    ids, _ = native.sample_tokens(logits, seed=seeds, step=4)
    order = np.array([5, 0, 7, 2])
    part, _ = native.sample_tokens(logits[order], seed=seeds[order], step=4)
    np.testing.assert_array_equal(part, ids[order])


def test_thread_count_and_memory_layout_do_not_matter():
    logits = draw(9, 3000)
    one, _ = native.sample_tokens(logits, seed=1, step=1, threads=1)
    four, _ = native.sample_tokens(logits, seed=1, step=1, threads=4)
    np.testing.assert_array_equal(one, four)
    wide = np.zeros((9, 6000), np.float32)
    wide[:, ::2] = logits
    view = wide[:, ::2]
    view.flags.writeable = False
    np.testing.assert_array_equal(native.sample_tokens(view, seed=1, step=1)[0], one)


def test_log_probability_is_before_truncation():
    logits = draw(3, 20)
    ids, logp = native.sample_tokens(logits, temperature=2.0, top_k=1, seed=0, step=0)
    full = logits / 2.0 - np.log(np.exp(logits / 2.0).sum(1, keepdims=True))
    np.testing.assert_allclose(logp, full[np.arange(3), ids], atol=1e-5)
    np.testing.assert_array_equal(ids, logits.argmax(1))


@pytest.mark.parametrize("function", [native.sample_tokens, native.sample_tokens_oracle])
@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "NaN"), (np.inf, r"\+inf"), (-np.inf, "-inf at every token")]
)
def test_bad_rows_are_named(function, value, words):
    logits = draw(3, 4)
    logits[2] = value
    with pytest.raises(ValueError, match=f"row 2.*{words}"):
        function(logits, seed=0, step=0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"step": -1},
        {"seed": np.zeros(3, np.uint64)},
        {"seed": np.zeros(2, np.int64)},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"found .* expected"):
        native.sample_tokens(draw(2, 4), **{"seed": 0, "step": 0, **options})


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros(3, np.float32)])
def test_wrong_arrays_are_refused(array):
    with pytest.raises(ValueError, match="expected float32"):
        native.sample_tokens(array, seed=0, step=0)
