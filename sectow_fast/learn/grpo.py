"""One GRPO update from a batch of groups. The only policy update in the repository."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.kernels import PolicyLossConfig, group_advantage
from sectow_fast.learn.packing import PackedRow
from sectow_fast.learn.policy import LossTerms, Policy
from sectow_fast.learn.ranks import Ranks
from sectow_fast.native import select_groups
from sectow_fast.types import Group, UserError

# Which tokens each of the loss's measures is a mean over.
MEANS = {"entropy": "scored", "kl": "scored", "clip_low": "live", "clip_high": "live"}


def loss_config(config: GRPOConfig) -> PolicyLossConfig:
    return PolicyLossConfig(
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        kl_coef=config.kl_coef,
        entropy_coef=config.entropy_coef,
        tis_cap=config.tis_cap,
    )


def advantages_of(
    groups: Sequence[Group], config: GRPOConfig
) -> tuple[list[list[float]], list[bool]]:
    """(advantages by group and completion, whether each group has a signal: max != min)."""
    rewards = torch.tensor([r.total for g in groups for r in g.rewards], dtype=torch.float64)
    sizes = torch.tensor([len(g.rewards) for g in groups])
    ids = torch.repeat_interleave(torch.arange(len(groups)), sizes)
    values, _ = group_advantage(rewards, ids, baseline=config.baseline, scale=config.scale)
    ends = [0, *sizes.cumsum(0).tolist()]
    rows = [values[a:b].tolist() for a, b in itertools.pairwise(ends)]
    return rows, select_groups(rewards.numpy(), np.array(ends)).tolist()


def grpo_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    *,
    config: GRPOConfig,
    reference: Policy | None = None,
) -> dict[str, float]:
    """Update `policy` once, on-policy, and say what happened.

    Groups whose rewards are all equal never reach the forward. The token mean's denominator is
    the completion tokens of the whole batch, dead groups included (our choice: a step that has
    little to learn moves little), and is the same however the batch is cut. A non-finite loss or
    gradient skips the step (`skipped` 1). `reference` is the policy of the KL term.

    On several ranks each is given all groups, trains on its share, balanced by tokens, and returns
    the same numbers.

    Raises UserError where rollout and trainer disagree by more than `config.mismatch_max` (mean k3
    estimate of KL a token).
    """
    gains, signal = advantages_of(groups, config)
    live = [i for i, has in enumerate(signal) if has]
    tokens = sum(len(one.ids) for group in groups for one in group.completions)
    metrics = {
        "tokens": float(tokens),
        "tokens_trained": 0.0,
        "dead_groups": 1 - len(live) / len(groups),
        "loss": 0.0,
        "grad_norm": 0.0,
        "skipped": 0.0,
    }
    if not live:
        return metrics
    policy.train()
    optimizer.zero_grad(set_to_none=True)
    tally = Tally(config.mismatch_max)
    pairs = [(groups[i].prompt, groups[i].completions) for i in live]
    for row, pieces in policy.rows(pairs, config.tokens_per_batch):
        gain = torch.tensor([gains[live[p.group]][j] for p in pieces for j in p.picked])
        ref_logp = None
        if reference is not None and config.kl_coef:
            with torch.no_grad():
                ref_logp, _ = reference(row, temperature=config.temperature)
        terms = LossTerms(
            advantages=gain[row.owner],
            normalizer=tokens,
            config=loss_config(config),
            ref_logp=ref_logp,
        )
        loss, measured = policy(row, terms, temperature=config.temperature)
        loss.backward()
        tally.add(row, loss.detach(), measured)
    metrics |= tally.result(policy.ranks)
    policy.forget_dummy(pairs)
    norm = policy.ranks.grad_norm(policy, config.max_grad_norm)
    metrics["grad_norm"] = norm
    if math.isfinite(norm) and math.isfinite(metrics["loss"]):
        optimizer.step()
    else:
        metrics["skipped"] = 1.0
    optimizer.zero_grad(set_to_none=True)
    return metrics


class Tally:
    """A step's measures, row by row and then over ranks. bound: of the mismatch gate."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.sums: dict[str, float] = dict.fromkeys(
            ["loss", "tokens_trained", "scored", "live", "gap_kl", *MEANS], 0.0
        )
        self.largest = 0.0

    def add(self, row: PackedRow, loss: torch.Tensor, measured: Mapping[str, torch.Tensor]) -> None:
        # Tokens of advantage 0 teach nothing and may not have gone through the head.
        scored = measured["scored"]
        share = {"scored": float(scored.sum()), "live": float(measured["live"])}
        if not share["scored"]:
            return
        gap = (row.rollout_logp.to(scored.device) - measured["logp"])[scored].double()
        sums = self.sums
        sums["loss"] += float(loss)
        sums["tokens_trained"] += row.tokens
        # The k3 estimate of KL(rollout || trainer).
        sums["gap_kl"] += float((torch.exp(-gap) - 1 + gap).sum())
        self.largest = max(self.largest, float(gap.abs().max()))
        for name, over in MEANS.items():
            sums[name] += float(measured[name]) * share[over]
        for over, count in share.items():
            sums[over] += count

    def result(self, ranks: Ranks) -> dict[str, float]:
        """The step's numbers, the same on every rank. UserError over the mismatch's bound."""
        sums = ranks.summed(self.sums)
        out = {name: sums[name] for name in ("loss", "tokens_trained")}
        out |= {name: sums[name] / max(sums[over], 1.0) for name, over in MEANS.items()}
        value = sums["gap_kl"] / max(sums["scored"], 1.0)
        largest = ranks.largest(self.largest)
        # NaN log-probs are left to the skip of non-finite steps, which counts them.
        if value > self.bound:
            raise UserError(
                f"rollout and trainer log-probs: found a mismatch of {value:.3g} (KL a token,"
                f" largest difference {largest:.3g}), expected <= {self.bound:g}; look at the"
                " engine's weights (was the last sync complete?), its precision, its temperature"
                " and its image features"
            )
        return out | {"mismatch_kl": value, "mismatch_max": largest}
