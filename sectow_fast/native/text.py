"""Duplicates and text statistics over token ids.

Documents come in CSR form: `tokens` [T] int32, ids >= 0, and `offsets` [D+1] int64, from 0 to T
and never falling; document d is `tokens[offsets[d]:offsets[d + 1]]`. Strided and read-only arrays
are accepted. Anything else is a ValueError that names the position.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from sectow_fast.native import index_file
from sectow_fast.native.core import core
from sectow_fast.native.text_oracles import (
    DuplicateIndexOracle,
    distinct_n_oracle,
    repetition_oracle,
    self_bleu_oracle,
)


class DuplicateIndex:
    """Keeps the first document of each cluster of near duplicates; grows by `add`.

    Two documents are twins where the Jaccard likeness of their sets of `ngram`-token shingles is >=
    `threshold`. A document shorter than ngram is one shingle of all its tokens; an empty document
    is a twin of empty ones only. A document is compared only with those kept so far, so of a chain
    of pairwise twins more than the first may be kept.

    Candidates come from MinHash signatures of 128 bins (fast similarity sketching, Dahlgaard et
    al., FOCS 2017) in LSH bands (Indyk and Motwani, STOC 1998), and each is verified by exact
    Jaccard, so there are no false twins. Twins are found with a chance of >= 0.9999 at the
    threshold and more above it; equal documents always. Answers do not depend on `threads`.

    Documents are numbered from 0 in the order they were offered to `add`, duplicates counted.
    Memory is that of the kept documents' tokens, and about 1.2 KB per kept document.
    """

    def __init__(self, ngram: int = 5, threshold: float = 0.8) -> None:
        """ngram: >= 1; threshold: 0.1 to 1. ValueError otherwise."""
        if not 1 <= ngram < 2**31:
            raise ValueError(f"ngram: found {ngram}, expected >= 1")
        if not 0.1 <= threshold <= 1:
            raise ValueError(f"threshold: found {threshold}, expected 0.1 to 1")
        self.ngram, self.threshold = int(ngram), float(threshold)
        make = DuplicateIndexOracle if core is None else core.DuplicateIndex
        self._index = make(self.ngram, self.threshold)

    def __len__(self) -> int:
        """How many documents are kept."""
        return len(self._index)

    def add(
        self, tokens: np.ndarray, offsets: np.ndarray, *, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keep each document that has no twin yet.

        Returns added bool [D], and match int64 [D]: the number of the kept twin with the lowest
        number, or -1. threads: 0 is one per core. Raises ValueError for bad CSR arrays.
        """
        return self._index.add(*_checked_csr(tokens, offsets), _checked_threads(threads))

    def query(self, tokens: np.ndarray, offsets: np.ndarray, *, threads: int = 0) -> np.ndarray:
        """match int64 [D] as `add` gives it, without keeping anything."""
        return self._index.query(*_checked_csr(tokens, offsets), _checked_threads(threads))

    def save(self, path: str | Path) -> None:
        """Write the index to `path` through `path.part`: whole, or not at all."""
        index_file.write(Path(path), self.ngram, self.threshold, *self._index.state())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The index that `save` wrote. ValueError, with path and byte, for any other file."""
        ngram, threshold, seen, numbers, *kept = index_file.read(Path(path))
        try:
            index = cls(ngram, threshold)
            index._index.restore(seen, numbers, *_checked_csr(*kept))
        except ValueError as problem:
            raise ValueError(f"{path}: {problem}") from None
        return index


def near_duplicates(
    tokens: np.ndarray,
    offsets: np.ndarray,
    *,
    ngram: int = 5,
    threshold: float = 0.8,
    threads: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first document of each cluster; see `DuplicateIndex` for what a twin is.

    Returns keep bool [D] and match int64 [D]: the kept twin (the lowest such index), or -1.
    Raises ValueError for bad CSR arrays, ngram < 1, and a threshold outside 0.1 to 1.
    """
    return DuplicateIndex(ngram, threshold).add(tokens, offsets, threads=threads)


def self_bleu(tokens: np.ndarray, offsets: np.ndarray, *, order: int = 4) -> np.ndarray:
    """BLEU of each document with all others as its references: float64 [D], 0..1 (1: a copy).

    Equal to sacrebleu's sentence_bleu(smooth_method="exp", use_effective_order=True) / 100 over
    ids as words (Post 2018): the closest reference length, ties to the shorter; n-gram counts
    clipped by the most that one other document has. Time and memory are O(T), not O(D^2). Fewer
    than two documents: 0. Raises ValueError for bad CSR arrays and order < 1.
    """
    tokens, offsets = _checked_csr(tokens, offsets)
    order = _checked_order("order", order)
    measure = self_bleu_oracle if core is None else core.self_bleu
    return measure(tokens, offsets, order)


def distinct_n(tokens: np.ndarray, offsets: np.ndarray, *, n: int = 2) -> float:
    """Distinct n-grams over n-grams, of all documents together; 0 where there are none.

    Distinct-n of Li et al. 2016. Raises ValueError for bad CSR arrays and n < 1.
    """
    tokens, offsets = _checked_csr(tokens, offsets)
    n = _checked_order("n", n)
    measure = distinct_n_oracle if core is None else core.distinct_n
    return measure(tokens, offsets, n)


def repetition(
    tokens: np.ndarray, offsets: np.ndarray, *, n: int = 4, threads: int = 0
) -> np.ndarray:
    """The share of each document's n-grams that occurred in it before: float64 [D].

    0 where a document has no n-gram. Raises ValueError for bad CSR arrays and n < 1.
    """
    tokens, offsets = _checked_csr(tokens, offsets)
    n = _checked_order("n", n)
    measure = repetition_oracle if core is None else core.repetition
    return measure(tokens, offsets, n, _checked_threads(threads))


def _checked_csr(tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays, C-contiguous; ValueError, with the position, where they are no CSR."""
    arrays = []
    for name, array, dtype in (("tokens", tokens, np.int32), ("offsets", offsets, np.int64)):
        found = np.asarray(array)
        if found.ndim != 1 or found.dtype != dtype:
            raise ValueError(
                f"{name}: found {found.dtype} of shape {found.shape},"
                f" expected one axis of {np.dtype(dtype)}"
            )
        arrays.append(np.ascontiguousarray(found))
    ids, cuts = arrays
    if not len(cuts) or cuts[0] != 0:
        raise ValueError(f"offsets[0]: found {cuts[0] if len(cuts) else 'nothing'}, expected 0")
    falls = cuts[1:] < cuts[:-1]
    if falls.any():
        at = int(falls.argmax()) + 1
        raise ValueError(f"offsets[{at}]: found {cuts[at]}, expected >= {cuts[at - 1]}")
    if cuts[-1] != len(ids):
        raise ValueError(
            f"offsets[{len(cuts) - 1}]: found {cuts[-1]}, expected {len(ids)}, the tokens there are"
        )
    if len(ids) and ids.min() < 0:
        at = int((ids < 0).argmax())
        raise ValueError(f"tokens[{at}]: found {ids[at]}, expected an id >= 0")
    return ids, cuts


def _checked_threads(threads: int) -> int:
    if not 0 <= threads <= 1024:
        raise ValueError(f"threads: found {threads}, expected 0 (one a core) to 1024")
    return int(threads)


def _checked_order(name: str, value: int) -> int:
    if not 1 <= value < 2**31:
        raise ValueError(f"{name}: found {value}, expected >= 1")
    return int(value)
