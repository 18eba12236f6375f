"""Log-probs of a batch before its first update, and the replies that they leave out of the loss.

With several updates per batch the ratio of a token is against these (PPO; TRL's `num_iterations`),
so that clipping acts. A reply whose ratio trainer / engine is outside of its bounds teaches from
another policy than the one that is trained, so it has no loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.learn.packing import IGNORE, PackedRow
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Prompt


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Of a row's completion tokens, on the device: logp [N] float32; mask [N] bool, False in a
    reply that is left out; left_out: how many replies are, a tensor of one number; ref_logp: the
    reference's, of a KL term."""

    logp: torch.Tensor
    mask: torch.Tensor
    left_out: torch.Tensor
    ref_logp: torch.Tensor | None = None


def stores(config: GRPOConfig) -> bool:
    """Whether the settings need log-probs before the first update: one more forward per row."""
    bounded = config.sequence_low is not None or config.sequence_high is not None
    return config.num_iterations > 1 or bounded


def stored_rows(
    policy: Policy,
    pairs: Sequence[tuple[Prompt, Sequence[Completion]]],
    config: GRPOConfig,
    reference: Policy | None,
) -> list[Stored]:
    """One for each of this rank's rows, in the order in which `policy.rows` gives them."""
    out = []
    for row, pieces in policy.rows(pairs, config.tokens_per_batch):
        with torch.no_grad():
            logp, _ = policy(row, temperature=config.temperature)
        replies = sum(len(piece.picked) for piece in pieces)
        stored = screened(policy, row, logp, replies=replies, config=config)
        out.append(replace(stored, ref_logp=reference_logp(reference, row, config)))
    return out


def reference_logp(
    reference: Policy | None, row: PackedRow, config: GRPOConfig
) -> torch.Tensor | None:
    """The KL term's log-probs of a row, where there is such a term."""
    if reference is None or not config.loss.kl_coef:
        return None
    with torch.no_grad():
        return reference(row, temperature=config.temperature)[0]


def screened(
    policy: Policy, row: PackedRow, logp: torch.Tensor, *, replies: int, config: GRPOConfig
) -> Stored:
    """The row's log-probs [N] with what they leave out; nothing here waits for the device.

    A reply's ratio is the geometric mean of its tokens' or their product, as
    `config.sequence_ratio` says. NaN is left out by no bound, so that the loss shows it.
    """
    owner, live = policy.sent(row.owner), policy.sent(row.labels) != IGNORE
    gap = (logp - policy.sent(row.rollout_logp)).where(live, 0.0)
    sums, sizes = (
        torch.zeros(replies, device=logp.device).index_add_(0, owner, one.float())
        for one in (gap, live)
    )
    if config.sequence_ratio == "mean":
        sums = sums / sizes.clamp(min=1)
    low = -math.inf if config.sequence_low is None else math.log(config.sequence_low)
    high = math.inf if config.sequence_high is None else math.log(config.sequence_high)
    # A row that is repeated with its labels off has no replies.
    outside = ((sums < low) | (sums > high)) & (sizes > 0)
    return Stored(logp=logp, mask=~outside[owner], left_out=outside.sum())
