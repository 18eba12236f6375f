"""One GRPO update from a batch of groups: advantages, rows, the policy loss, one optimizer step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch

from sectow_fast.config import GRPOConfig, LossConfig
from sectow_fast.kernels import PolicyLossConfig, group_advantage
from sectow_fast.learn.packing import PackedRow
from sectow_fast.learn.policy import LossTerms, Policy
from sectow_fast.learn.ranks import Ranks
from sectow_fast.types import Group, UserError

# Which tokens each of the loss's metrics is a mean over.
MEANS = {"entropy": "scored", "kl": "scored", "clip_low": "live", "clip_high": "live"}


def loss_config(config: LossConfig) -> PolicyLossConfig:
    """The kernels' configuration. What is extra belongs to a loss that a plugin registered.

    ValueError where a ratio, a KL estimate or an option is not known.
    """
    extra = dict(config.model_extra or {})
    fields = {name: getattr(config, name) for name in LossConfig.model_fields}
    return PolicyLossConfig(**fields, options=extra)


def advantages_of(
    groups: Sequence[Group], config: GRPOConfig
) -> tuple[list[list[float]], list[bool]]:
    """(advantages by group and completion, whether each group has a signal: max != min)."""
    rewards = torch.tensor([r.total for g in groups for r in g.rewards], dtype=torch.float64)
    sizes = torch.tensor([len(g.rewards) for g in groups])
    ids = torch.repeat_interleave(torch.arange(len(groups)), sizes)
    advantages, has_signal = group_advantage(
        rewards, ids, baseline=config.baseline, scale=config.scale
    )
    ends = [0, *sizes.cumsum(0).tolist()]
    rows = [advantages[a:b].tolist() for a, b in itertools.pairwise(ends)]
    return rows, has_signal[torch.tensor(ends[:-1])].tolist()


def normalizer_of(groups: Sequence[Group], config: GRPOConfig) -> int:
    """What the sum of the loss is divided by: a count over the whole batch, whatever the rows.

    Groups without a signal count too (our choice: a step that has little to learn moves little).
    "constant" divides by all the tokens that could have been written, as Dr. GRPO does, so that the
    length of a completion does not weigh in.
    """
    completions = [one for group in groups for one in group.completions]
    if config.loss.reduction == "token-mean":
        return sum(len(one.ids) for one in completions)
    if config.loss.reduction == "constant":
        return len(completions) * config.max_new_tokens
    return len(completions)


def grpo_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    *,
    config: GRPOConfig,
    reference: Policy | None = None,
) -> dict[str, float]:
    """Update `policy` once, on-policy, and say what happened.

    Groups whose rewards are all equal never reach the forward. A non-finite loss or gradient skips
    the step ("skipped" 1). `reference` is the policy of the KL term.

    On several ranks each is given all groups, trains on its share, balanced by tokens, and returns
    the same numbers.

    Raises UserError where rollout and trainer disagree by more than `config.mismatch_max` (mean k3
    estimate of KL per token).
    """
    # A registered reward term may answer each rank otherwise: the first one's rewards count.
    advantages, signal = policy.ranks.told(lambda: advantages_of(groups, config))
    live = [i for i, has in enumerate(signal) if has]
    metrics = {
        "tokens": float(sum(len(one.ids) for group in groups for one in group.completions)),
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
    loss_settings, normalizer = loss_config(config.loss), normalizer_of(groups, config)
    sums = StepSums(mismatch_max=config.mismatch_max, device=policy.device)
    pairs = [(groups[i].prompt, groups[i].completions) for i in live]
    for row, pieces in policy.rows(pairs, config.tokens_per_batch):
        by_completion = torch.tensor(
            [advantages[live[piece.group]][j] for piece in pieces for j in piece.picked]
        )
        ref_logp = None
        if reference is not None and config.loss.kl_coef:
            with torch.no_grad():
                ref_logp, _ = reference(row, temperature=config.temperature)
        terms = LossTerms(
            advantages=by_completion[row.owner],
            normalizer=normalizer,
            config=loss_settings,
            ref_logp=ref_logp,
        )
        loss, measured = policy(row, terms, temperature=config.temperature)
        loss.backward()
        sums.add(row, loss.detach(), measured)
    metrics |= sums.result(policy.ranks)
    policy.forget_dummy(pairs)
    norm = policy.ranks.grad_norm(policy, config.max_grad_norm)
    metrics["grad_norm"] = norm
    if math.isfinite(norm) and math.isfinite(metrics["loss"]):
        optimizer.step()
    else:
        metrics["skipped"] = 1.0
    optimizer.zero_grad(set_to_none=True)
    return metrics


SUMS = ("loss", "tokens_trained", "scored", "live", "mismatch_kl", *MEANS)


class StepSums:
    """A step's metrics, summed row by row and then over ranks.

    The sums stay on the device until `result` reads them once, so that no row waits for the card.
    mismatch_max: the bound on KL(rollout || trainer) per token, over which the run stops.
    """

    def __init__(self, *, mismatch_max: float, device: torch.device) -> None:
        self.mismatch_max = mismatch_max
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, row: PackedRow, loss: torch.Tensor, measured: Mapping[str, torch.Tensor]) -> None:
        """One row's loss and what `linear_policy_loss` measured on it."""
        # Tokens of advantage 0 teach nothing and may not have gone through the head.
        scored = measured["scored"]
        counts = {"scored": scored.sum(), "live": measured["live"].double()}
        rollout = row.rollout_logp.to(scored.device, non_blocking=True)
        gap = (rollout - measured["logp"]).double().where(scored, 0.0)
        values = {
            "loss": loss,
            "tokens_trained": torch.full_like(loss, row.tokens),
            # The k3 estimate of KL(rollout || trainer).
            "mismatch_kl": (torch.exp(-gap) - 1 + gap).sum(),
            **{name: measured[name].double() * counts[over] for name, over in MEANS.items()},
            **counts,
        }
        # A row of which nothing was scored does not count.
        mine = torch.stack([values[name].double() for name in SUMS])
        self.sums += mine.where(counts["scored"] > 0, 0.0)
        # NaN is left out, as `result` says.
        self.largest = torch.fmax(self.largest, gap.abs().amax())

    def result(self, ranks: Ranks) -> dict[str, float]:
        """The step's numbers, the same on every rank. UserError over the mismatch's bound."""
        *read, mine = torch.cat([self.sums, self.largest[None]]).tolist()
        sums = ranks.summed(dict(zip(SUMS, read, strict=True)))
        out = {name: sums[name] for name in ("loss", "tokens_trained")}
        out |= {name: sums[name] / max(sums[over], 1.0) for name, over in MEANS.items()}
        mismatch = sums["mismatch_kl"] / max(sums["scored"], 1.0)
        largest = ranks.largest(mine)
        # NaN log-probs are left to the skip of non-finite steps, which counts them.
        if mismatch > self.mismatch_max:
            raise UserError(
                f"rollout and trainer log-probs: found a mismatch of {mismatch:.3g} (KL per token,"
                f" largest difference {largest:.3g}), expected <= {self.mismatch_max:g}; look at"
                " the engine's weights (was the last sync complete?), its precision, its"
                " temperature and its image features"
            )
        return out | {"mismatch_kl": mismatch, "mismatch_max": largest}
