"""Log-probabilities of labels and entropies, from logits or straight from hidden states.

`linear_logprob` never holds the whole [N, V]: it goes through the head in chunks of rows and
computes a chunk's logits again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def check_labels(labels: Tensor, vocabulary: int, ignore_index: int) -> Tensor:
    """Live rows [N] bool. Raises ValueError where a live label is outside the vocabulary."""
    live = labels != ignore_index
    wrong = live & ((labels < 0) | (labels >= vocabulary))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels[{row}]: found {int(labels[row])}, expected 0..{vocabulary - 1}"
            f" or {ignore_index}"
        )
    return live


def _rows(logits: Tensor, labels: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """(logp, entropy) of float32-or-wider logits; rows that are not live give 0 and no gradient."""
    logp = logits.log_softmax(-1)
    picked = logp.gather(-1, labels.where(live, 0)[:, None])[:, 0]
    # A token of probability 0 adds 0 to the entropy, and 0 * -inf would be NaN.
    entropy = -(logp.exp() * logp.masked_fill(logits == -torch.inf, 0.0)).sum(-1)
    return picked.where(live, 0.0), entropy.where(live, 0.0)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def selective_logprob(
    logits: Tensor, labels: Tensor, *, temperature: float = 1.0, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """(logp [N], entropy [N]) of labels [N] under softmax(logits [N, V] / temperature), float32.

    A row whose label is `ignore_index` gives 0 and 0, whatever it holds. -inf logits are allowed;
    a NaN in a live row gives NaN. Raises ValueError for a live label out of range.
    """
    live = check_labels(labels, logits.shape[-1], ignore_index)
    # The row is replaced, not multiplied away: 0 * NaN is NaN, in the backward pass too.
    safe = torch.where(live[:, None], _wide(logits), 0.0)
    return _rows(safe / temperature, labels, live)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    chunk: int = 4096,
) -> tuple[Tensor, Tensor]:
    """`selective_logprob` of hidden [N, H] @ weight.T [H, V] (+ bias [V]), chunk rows at a time.

    Gradients go to hidden, weight and bias for any upstream gradient of both results. softcap:
    logits become softcap * tanh(logits / softcap), before the temperature. Rows to ignore are
    left out before the product, so they cost nothing.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}:"
            " expected [N, H] and [V, H]"
        )
    live = check_labels(labels, weight.shape[0], ignore_index)
    rows = live.nonzero()[:, 0]

    def part(states: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor | None):
        logits = _wide(torch.nn.functional.linear(states, weight))
        if bias is not None:
            logits = logits + bias
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return _rows(logits / temperature, wanted, torch.ones_like(wanted, dtype=torch.bool))

    dtype = torch.promote_types(hidden.dtype, torch.float32)
    # Connected to the inputs even where no row is live: a rank without gradients would hang DDP.
    anchor = (hidden[:0].sum() + weight[:0].sum()).to(dtype)
    logp = torch.zeros(len(labels), dtype=dtype, device=hidden.device) + anchor
    entropy = torch.zeros_like(logp) + anchor
    parts = []
    for piece in rows.split(chunk):
        arguments = (hidden[piece], labels[piece], weight, bias)
        if len(rows) > chunk:
            parts.append(checkpoint(part, *arguments, use_reentrant=False))
        else:
            parts.append(part(*arguments))
    if parts:
        logp = logp.index_put((rows,), torch.cat([one[0] for one in parts]))
        entropy = entropy.index_put((rows,), torch.cat([one[1] for one in parts]))
    return logp, entropy
