"""`sample_tokens` and its twin."""

from __future__ import annotations

import numpy as np

from sectow_fast.native.core import core


def sample_tokens(
    logits: np.ndarray,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | np.ndarray,
    step: int,
    threads: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one token per row.

    logits: [B, V] float32. temperature 0 is greedy (ties to the lowest id); top_k 0, top_p 1.0 and
    min_p 0.0 mean off. Cuts are made in the order min-p, top-k, top-p, over tokens ranked by
    probability, then by id; top-p keeps the shortest prefix that reaches its share.
    seed: one int (a row's number is mixed in), or uint64 [B] (a row's token then depends on its
    own seed and `step` alone, whatever the batch). Randomness is Philox4x32-10.

    Returns ids int32 [B] and logp float32 [B]: over the full vocabulary at `temperature` (at 1
    where greedy), before truncation, as SGLang reports it.

    Raises ValueError, with the row, for NaN, +inf, a row of -inf, and options out of range.
    """
    array, seeds, per_row = _checked(logits, temperature, top_k, top_p, min_p, seed, step)
    if core is None:
        return sample_rows(array, seeds, per_row, step, temperature, top_k, top_p, min_p)
    return core.sample_tokens(
        array, seeds, per_row, step, temperature, top_k, top_p, min_p, threads
    )


def sample_tokens_oracle(
    logits: np.ndarray,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | np.ndarray,
    step: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`sample_tokens`, row by row."""
    array, seeds, per_row = _checked(logits, temperature, top_k, top_p, min_p, seed, step)
    return sample_rows(array, seeds, per_row, step, temperature, top_k, top_p, min_p)


def _checked(logits, temperature, top_k, top_p, min_p, seed, step):
    array = np.asarray(logits)
    if array.ndim != 2 or array.dtype != np.float32:
        raise ValueError(
            f"logits: found {array.dtype} of shape {array.shape}, expected float32 [B, V]"
        )
    if array.shape[1] == 0:
        raise ValueError("logits: found an empty vocabulary, expected V >= 1")
    if not temperature >= 0 or temperature == float("inf"):
        raise ValueError(f"temperature: found {temperature}, expected a finite number >= 0")
    if top_k < 0:
        raise ValueError(f"top_k: found {top_k}, expected >= 0 (0: off)")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: found {top_p}, expected 0 < top_p <= 1 (1: off)")
    if not 0 <= min_p < 1:
        raise ValueError(f"min_p: found {min_p}, expected 0 <= min_p < 1 (0: off)")
    if step < 0:
        raise ValueError(f"step: found {step}, expected >= 0")
    per_row = isinstance(seed, np.ndarray)
    if per_row and (seed.dtype != np.uint64 or seed.shape != array.shape[:1]):
        raise ValueError(
            f"seed: found {seed.dtype} of shape {seed.shape}, expected an int or uint64"
            f" [{array.shape[0]}]"
        )
    seeds = np.ascontiguousarray(seed if per_row else np.array([seed % 2**64], np.uint64))
    return np.ascontiguousarray(array), seeds, per_row


def sample_rows(logits, seeds, per_row, step, temperature, top_k, top_p, min_p):
    rows = len(logits)
    ids, logp = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
    heat = temperature or 1.0
    for row, values in enumerate(logits.astype(np.float64)):
        if np.isnan(values).any():
            token = int(np.isnan(values).argmax())
            raise ValueError(f"logits row {row}: found NaN at token {token}")
        if (values == np.inf).any():
            token = int((values == np.inf).argmax())
            raise ValueError(f"logits row {row}: found +inf at token {token}")
        top = values.max()
        if top == -np.inf:
            raise ValueError(f"logits row {row}: found -inf at every token")
        weight = np.exp((values - top) / heat)
        chosen = int(values.argmax())
        if temperature:
            kept = np.flatnonzero((weight > 0) & (weight >= min_p))
            ranked = kept[np.lexsort((kept, -weight[kept]))]
            if top_k:
                ranked = ranked[:top_k]
            if top_p < 1:
                left = np.cumsum(weight[np.sort(ranked)])[-1]
                mass = np.cumsum(weight[ranked])
                ranked = ranked[: int(np.searchsorted(mass, top_p * left)) + 1]
            kept = np.sort(ranked)
            mass = np.cumsum(weight[kept])
            seed, number = (seeds[row], 0) if per_row else (seeds[0], row)
            target = uniform(int(seed), number, step) * mass[-1]
            chosen = int(kept[min(int(np.searchsorted(mass, target, "right")), len(kept) - 1)])
        ids[row] = chosen
        logp[row] = (values[chosen] - top) / heat - np.log(weight.sum())
    return ids, logp


def uniform(seed: int, row: int, step: int) -> float:
    low, high = _philox(
        (step & 0xFFFFFFFF, step >> 32, row & 0xFFFFFFFF, row >> 32),
        (seed & 0xFFFFFFFF, seed >> 32),
    )[1::-1]
    return (((high << 32) | low) >> 11) * 2.0**-53


def _philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011)."""
    c, (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = (
            (b >> 32) ^ c[1] ^ k0,
            b & 0xFFFFFFFF,
            (a >> 32) ^ c[3] ^ k1,
            a & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c
