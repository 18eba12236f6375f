"""Stage 2: what this card can do at most, which the other stages' figures are held against."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.gpu_check.check import Check, Row, short

COPY, PRODUCT = "device copy", "product"


def run(check: Check) -> Iterator[Row]:
    """Bytes per second of a copy (read and written), operations per second of a product."""
    device, sizes = check.device, check.sizes
    one = device.normal(sizes.copy, dtype=device.dtype)
    out = torch.empty_like(one)
    found = device.timed(lambda: out.copy_(one), fresh=one.normal_, repeats=15)
    yield {"name": COPY, **found, "tb_per_s": short(2 * one.nbytes / found["seconds"] / 1e12)}
    edge = sizes.square
    one, two = (device.normal(edge, edge, dtype=device.dtype) for _ in range(2))
    out = torch.empty_like(one)
    found = device.timed(lambda: torch.mm(one, two, out=out), fresh=one.normal_, repeats=15)
    speed = 2 * edge**3 / found["seconds"] / 1e12
    yield {"name": PRODUCT, **found, "edge": edge, "tflop_per_s": short(speed)}
