"""One GRPO update from a batch of groups. The only policy update in the repository."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sectow_fast.config import GRPOConfig
from sectow_fast.kernels import (
    PolicyLossConfig,
    group_advantage,
    linear_logprob,
    linear_policy_loss,
)
from sectow_fast.learn.packing import micro_batches, pack, row_length
from sectow_fast.learn.policy import banned_bias, completion_hidden
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
    model: Any,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    *,
    codec: Any,
    config: GRPOConfig,
    reference: Any = None,
) -> dict[str, float]:
    """Update `model` once, on-policy, and say what happened.

    Groups whose rewards are all equal never reach the forward. The token mean's denominator is
    the completion tokens of the whole batch, dead groups included (our choice: a step that has
    little to learn moves little), and is the same however the batch is cut. A non-finite loss or
    gradient skips the step (`skipped` 1). `reference` is the policy of the KL term.

    Raises UserError where rollout and trainer disagree by more than `config.mismatch_max` (mean k3
    estimate of KL a token).
    """
    rows, signal = advantages_of(groups, config)
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
    model.train()
    optimizer.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    bias = banned_bias(model, codec)
    sums: dict[str, float] = {}
    counts = {"scored": 0.0, "live": 0.0}
    gaps: list[torch.Tensor] = []
    lengths = [row_length(groups[i].prompt, groups[i].completions) for i in live]
    for picked in micro_batches(lengths, config.tokens_per_batch):
        chosen = [live[j] for j in picked]
        batch = pack(
            [(groups[i].prompt, groups[i].completions) for i in chosen],
            pad_id=codec.pad_id,
            dtype=model.dtype,
        )
        gain = torch.tensor([a for i in chosen for a in rows[i]], dtype=torch.float32)[batch.owner]
        hidden = completion_hidden(model, batch, codec)
        ref_logp = None
        if reference is not None and config.kl_coef:
            with torch.no_grad():
                states = completion_hidden(reference, batch, codec)
                ref_logp, _ = linear_logprob(
                    states,
                    reference.lm_head.weight,
                    batch.labels,
                    bias=bias,
                    temperature=config.temperature,
                )
        loss, measured = linear_policy_loss(
            hidden,
            model.lm_head.weight,
            batch.labels,
            gain.to(device),
            bias=bias,
            ref_logp=ref_logp,
            rollout_logp=batch.rollout_logp,
            normalizer=tokens,
            config=loss_config(config),
            temperature=config.temperature,
        )
        loss.backward()
        # Tokens of advantage 0 teach nothing and may not have gone through the head.
        scored = measured["scored"]
        gaps.append((batch.rollout_logp - measured["logp"])[scored])
        share = {"scored": float(scored.sum()), "live": float(measured["live"])}
        metrics["loss"] += float(loss.detach())
        metrics["tokens_trained"] += float(batch.input_ids.numel())
        counts = {over: counts[over] + share[over] for over in counts}
        for name, over in MEANS.items():
            sums[name] = sums.get(name, 0.0) + float(measured[name]) * share[over]
    metrics |= {name: value / max(counts[MEANS[name]], 1.0) for name, value in sums.items()}
    metrics |= mismatch(torch.cat(gaps), config.mismatch_max)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    metrics["grad_norm"] = float(norm)
    if torch.isfinite(norm) and torch.isfinite(torch.tensor(metrics["loss"])):
        optimizer.step()
    else:
        metrics["skipped"] = 1.0
    optimizer.zero_grad(set_to_none=True)
    return metrics


def mismatch(gap: torch.Tensor, bound: float) -> dict[str, float]:
    """How far rollout and trainer log-probs [N] (their difference) are apart; the gate.

    mismatch_kl: mean of exp(-gap) - 1 + gap, the k3 estimate of KL(rollout || trainer).
    """
    value = float((torch.exp(-gap) - 1 + gap).mean())
    largest = float(gap.abs().max())
    # NaN log-probs are left to the skip of non-finite steps, which counts them.
    if value > bound:
        raise UserError(
            f"rollout and trainer log-probs: found a mismatch of {value:.3g} (KL a token, largest"
            f" difference {largest:.3g}), expected <= {bound:g}; look at the engine's weights"
            " (was the last sync complete?), its precision, its temperature and its image features"
        )
    return {"mismatch_kl": value, "mismatch_max": largest}
