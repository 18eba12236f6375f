"""The C++ core beside the tools that people use, in one run: sampling against transformers, and
packing.

The floor of sampling is one pass over the logits: the time of numpy's plain `max` over the same
array stands beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from sectow_fast.native import pack_groups, sample_tokens

ROWS, VOCABULARY, TOP_P = 64, 151_936, 0.95


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turns so that other work on the machine affects all
    alike."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name in contenders:
        contenders[name]()
    for _ in range(rounds):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seen) for name, seen in times.items()}


def test_sampling_against_transformers(keep):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    table = []
    for scale in (3.0, 8.0):
        rng = np.random.default_rng(0)
        logits = (rng.normal(size=(ROWS, VOCABULARY)) * scale).astype(np.float32)
        scores = torch.from_numpy(logits)
        warpers = (TemperatureLogitsWarper(1.0), TopPLogitsWarper(TOP_P))

        def warped(scores: torch.Tensor = scores, warpers: tuple = warpers) -> torch.Tensor:
            kept = scores
            for warper in warpers:
                kept = warper(None, kept)
            return torch.multinomial(kept.softmax(-1), 1)

        seconds = interleaved(
            {
                "ours, top-p": lambda x=logits: sample_tokens(x, top_p=TOP_P, seed=0, step=0),
                "ours, plain": lambda x=logits: sample_tokens(x, seed=0, step=0),
                "transformers, top-p": warped,
                "torch log_softmax": lambda x=scores: x.log_softmax(-1),
                "numpy max": lambda x=logits: x.max(1),
            },
            rounds=7,
        )
        ratio = seconds["transformers, top-p"] / seconds["ours, top-p"]
        table.append({"logit_scale": scale, "ratio": ratio, "seconds": seconds})
        print(f"\n[{ROWS}, {VOCABULARY}] x {scale}: {ratio:.1f}x transformers; {seconds}")
    keep("cpu-sampling", table, what=__doc__)


def test_packing_of_a_hundred_thousand_sequences(keep):
    rng = np.random.default_rng(0)
    groups = 12_500
    prompts, completions = rng.integers(20, 1200, groups), rng.integers(1, 513, 8 * groups)
    offsets = np.arange(0, 8 * groups + 1, 8)
    budget = 32_768
    call = {"pack": lambda: pack_groups(prompts, completions, offsets, budget, 8)}
    seconds = interleaved(call, rounds=7)["pack"]
    _, rank = pack_groups(prompts, completions, offsets, budget, 8)
    bound = -(-int(prompts.sum() + completions.sum()) // budget)
    row = {"seconds": seconds, "packs": len(rank), "least_packs": bound}
    print(f"\n{8 * groups} sequences: {seconds * 1e3:.1f} ms, {len(rank)} packs, bound {bound}")
    keep("cpu-packing", [row], what="shared-prefix packing, budget 32,768, 8 ranks")
