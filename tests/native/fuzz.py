"""Raw arrays into every native function: an answer or a ValueError, never a crash.

`make fuzz MINUTES=10` runs it on the extension built with AddressSanitizer and
UndefinedBehaviorSanitizer; `python tests/native/fuzz.py 0.1` on the plain one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sectow_fast import native

Random = np.random.Generator
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 1e-45, 700.0], np.float32)


def numbers(rng: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Floats of any size, sometimes odd ones, sometimes strided or read-only."""
    scale = 10.0 ** rng.integers(-3, 4)
    array = (rng.normal(size=shape) * scale).astype(np.float32)
    if rng.random() < 0.1 and array.size:
        array.flat[rng.integers(0, array.size, 2)] = rng.choice(ODD, 2)
    if rng.random() < 0.2:
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    array.flags.writeable = rng.random() < 0.8
    return array


def usual(rng: Random, good: list, bad: list) -> object:
    """One of `good`, now and then one of `bad`."""
    return rng.choice(bad if rng.random() < 0.05 else good)


def whole(rng: Random, size: int, low: int, high: int, kind: type = np.int32) -> np.ndarray:
    return rng.integers(low, high, size).astype(kind)


def texts(rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """CSR arrays, one in ten of them broken."""
    sizes = rng.integers(0, 12, rng.integers(0, 9))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    tokens = whole(rng, int(offsets[-1]), 0, rng.choice([2, 50, 2**31 - 1]))
    if rng.random() < 0.1:
        offsets[rng.integers(len(offsets))] += rng.choice([-(2**40), -1, 1, 2**40])
        if len(tokens):
            tokens[0] = rng.choice([-1, -(2**31), 0])
    return tokens, offsets


def sample(rng: Random) -> object:
    shape = tuple(rng.integers(0, 40, rng.choice([2] * 9 + [1, 3])))
    return native.sample_tokens(
        numbers(rng, shape),
        temperature=float(usual(rng, [0.0, 1e-6, 0.7, 1.0, 1e6], [-1.0, np.nan])),
        top_k=int(usual(rng, [0, 1, 5, 10**12], [-1])),
        top_p=float(usual(rng, [1.0, 0.9, 1e-9], [0.0, 1.5, np.nan])),
        min_p=float(usual(rng, [0.0, 0.1, 0.999], [1.0, -0.1])),
        seed=int(rng.integers(0, 2**63)),
        step=int(usual(rng, [0, 1, 2**62], [-1])),
        threads=int(rng.choice([0, 1, 3, 10_000])),
    )


def duplicates(rng: Random) -> object:
    options = {
        "ngram": int(usual(rng, [1, 2, 5, 100], [0])),
        "threshold": float(0.1 + 0.95 * rng.random()),
    }
    return native.near_duplicates(*texts(rng), **options, threads=int(rng.integers(0, 4)))


def index(rng: Random) -> object:
    found = native.DuplicateIndex(int(rng.integers(1, 4)), 0.5)
    found.add(*texts(rng))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        found.save(path)
        data = bytearray(path.read_bytes())
        if rng.random() < 0.7 and data:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            data = data[: rng.integers(len(data) + 1)] if rng.random() < 0.5 else data
        path.write_bytes(bytes(data))
        return native.DuplicateIndex.load(path).query(*texts(rng))


def statistics(rng: Random) -> object:
    n = int(usual(rng, [1, 2, 4, 9], [0]))
    return (
        native.self_bleu(*texts(rng), order=n),
        native.distinct_n(*texts(rng), n=n),
        native.repetition(*texts(rng), n=n),
    )


def select(rng: Random) -> object:
    offsets = texts(rng)[1]
    count = max(0, min(int(offsets[-1]), 200) + int(usual(rng, [0], [-1, 1])))
    return native.select_groups(numbers(rng, (count,)), offsets)


def pack(rng: Random) -> object:
    sizes, offsets = texts(rng)
    prompts = whole(rng, len(offsets) - int(usual(rng, [1], [0, 2])), 0, 2000, np.int64)
    budget, ranks = int(rng.integers(0, 500)), int(usual(rng, [1, 2, 7], [0]))
    return native.pack_groups(prompts, sizes, offsets, budget, ranks)


def priorities(rng: Random) -> object:
    size = int(usual(rng, [1, 3, 19], [0]))
    strata = whole(rng, size, 0, 3) if rng.random() < 0.5 else None
    sampler = native.PrioritySampler(
        size, strata=strata, seed=int(rng.integers(0, 2**63)), exploration=rng.random()
    )
    count = int(rng.integers(0, 5))
    tried = np.abs(numbers(rng, (count,)))
    low, high = (0, max(size, 1)) if rng.random() < 0.9 else (-1, 40)
    sampler.update(whole(rng, count, low, high, np.int64), successes=tried / 2, trials=tried)
    return sampler.sample(int(rng.integers(0, size + 1)), step=int(rng.integers(0, 2**40)))


TARGETS: tuple[Callable[[Random], object], ...] = (
    *(sample, duplicates, index, statistics, select, pack, priorities),
)


def main(minutes: float) -> None:
    end, seed = time.monotonic() + 60 * minutes, 0
    answered: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    while time.monotonic() < end:
        for target in TARGETS:
            try:
                target(np.random.default_rng([seed, TARGETS.index(target)]))
                answered[target.__name__] += 1
            except ValueError:
                refused[target.__name__] += 1
            except BaseException:
                print(f"seed {seed}, {target.__name__}:", file=sys.stderr)
                raise
        seed += 1
    for target in TARGETS:
        name = target.__name__
        print(f"{name}: {answered[name]} answered, {refused[name]} refused")


if __name__ == "__main__":
    main(float(sys.argv[1]))
