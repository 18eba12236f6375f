"""What both text tests share: documents in CSR form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st


def csr(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([token for row in rows for token in row], np.int32)
    return tokens, np.cumsum([0, *map(len, rows)], dtype=np.int64)


def documents(ids: int = 3, most: int = 12, length: int = 9) -> st.SearchStrategy:
    """Lists of short documents over few ids, so that much repeats; empty ones too."""
    return st.lists(st.lists(st.integers(0, ids), max_size=length), max_size=most)


BAD = [
    ([1, 2], [1, 2], r"offsets\[0\]: found 1, expected 0"),
    ([1, 2], [0, 2, 1, 2], r"offsets\[2\]: found 1, expected >= 2"),
    ([1, 2], [0, 1], r"offsets\[1\]: found 1, expected 2"),
    ([1, 2], [0, 3], r"offsets\[1\]: found 3, expected 2"),
    ([1, 2], [0, -1, 2], r"offsets\[1\]: found -1, expected >= 0"),
    ([1, -2, -3], [0, 3], r"tokens\[1\]: found -2, expected an id >= 0"),
    ([1, 2], [], r"offsets\[0\]: found nothing, expected 0"),
    ([[1, 2]], [0, 2], r"tokens: found int32 of shape \(1, 2\)"),
]


def bad_arrays(tokens, offsets) -> tuple[np.ndarray, np.ndarray]:
    return np.array(tokens, np.int32), np.array(offsets, np.int64)
