"""What a token weighs in the loss. It depends on masks and sequences only, not on log-probs."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_index(sequence_ids: Tensor) -> Tensor:
    """[N] int64 in 0..N-1, equal where ids are equal. By sorting: nothing waits for the device."""
    ordered, order = sequence_ids.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)


def sum_by(values: Tensor, index: Tensor) -> Tensor:
    """[N]: the sum of the values of each index, where the index has its place.

    On CUDA `index_add_` adds in any order, so its sums differ from run to run. `index_put_` sorts.
    """
    zeros = torch.zeros_like(values)
    if values.is_cuda:
        return zeros.index_put_((index,), values, accumulate=True)
    return zeros.index_add_(0, index, values)


def token_weights(
    live: Tensor,
    index: Tensor | None,
    normalizer: Tensor | None,
    reduction: str,
    dtype: torch.dtype,
) -> Tensor:
    """w [N]: the loss is sum(w * loss of the token); 0 where a token is not live."""
    counted = live.to(dtype)
    if reduction == "none":
        return counted
    divisor = None if normalizer is None else normalizer.to(dtype)
    if reduction in ("token-mean", "constant"):
        return over(counted, counted.sum().clamp(min=1) if divisor is None else divisor)
    sizes = sum_by(counted, index)
    divisor = (sizes > 0).sum().clamp(min=1) if divisor is None else divisor
    weights = over(counted, divisor)
    return weights / sizes.clamp(min=1)[index] if reduction == "seq-mean" else weights


def over(counted: Tensor, divisor: Tensor) -> Tensor:
    """counted / divisor, and 0 where nothing counts: a step without a token has the divisor 0."""
    return (counted / divisor).masked_fill(counted == 0, 0.0)


def as_scalar(normalizer: float | Tensor | None, device: torch.device) -> Tensor | None:
    """A fill on the device: no copy from the host, so nothing waits."""
    if normalizer is None or isinstance(normalizer, Tensor):
        return None if normalizer is None else normalizer.detach().reshape(()).to(device)
    return torch.full((), float(normalizer), dtype=torch.float64, device=device)
