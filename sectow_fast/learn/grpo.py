"""GRPO updates from a batch of groups: advantages, rows, the policy loss, optimizer steps."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sectow_fast.config import GRPOConfig, LossConfig
from sectow_fast.kernels import PolicyLossConfig, group_advantage
from sectow_fast.learn.cuts import cut_share
from sectow_fast.learn.policy import LossTerms, Policy
from sectow_fast.learn.stored import Stored, reference_logp, stored_rows, stores
from sectow_fast.learn.sums import StepSums
from sectow_fast.types import Completion, Group, Prompt


def loss_config(config: LossConfig) -> PolicyLossConfig:
    """The kernels' configuration. What is extra belongs to a loss that a plugin registered.

    ValueError where a ratio, a KL estimate or an option is not known.
    """
    extra = dict(config.model_extra or {})
    fields = {name: getattr(config, name) for name in LossConfig.model_fields}
    return PolicyLossConfig(**fields, options=extra)


def banded_loss(config: GRPOConfig) -> PolicyLossConfig:
    """`loss_config` with the narrower of the loss's own band and `mismatch_token`'s."""
    given, most = loss_config(config.loss), config.mismatch_token
    if most is None:
        return given
    low, high = given.band_low or 0.0, math.inf if given.band_high is None else given.band_high
    return dataclasses.replace(
        given, band_low=max(low, math.exp(-most)), band_high=min(high, math.exp(most))
    )


def advantages_of(
    groups: Sequence[Group], config: GRPOConfig
) -> tuple[list[list[float]], list[bool]]:
    """(advantages by group and completion, times the group's weight; whether each group has a
    signal: max != min)."""
    rewards = torch.tensor([r.total for g in groups for r in g.rewards], dtype=torch.float64)
    sizes = torch.tensor([len(g.rewards) for g in groups])
    ids = torch.repeat_interleave(torch.arange(len(groups)), sizes)
    advantages, has_signal = group_advantage(
        rewards, ids, baseline=config.baseline, scale=config.scale
    )
    ends = [0, *sizes.cumsum(0).tolist()]
    spans = zip(itertools.pairwise(ends), groups, strict=True)
    rows = [(advantages[a:b] * group.weight).tolist() for (a, b), group in spans]
    return rows, has_signal[torch.tensor(ends[:-1])].tolist()


def learnt_from(
    groups: Sequence[Group],
    advantages: Sequence[Sequence[float]],
    signal: Sequence[bool],
    config: GRPOConfig,
) -> tuple[list[Group], list[list[float]]]:
    """(groups with a signal, their advantages), without cut replies where `config.cut` is "mask".

    A cut reply counts in its group's baseline all the same (DAPO's overlong filtering).
    """
    kept, theirs = [], []
    for group, values, has in zip(groups, advantages, signal, strict=True):
        places = [
            j
            for j, one in enumerate(group.completions)
            if has and not (config.cut == "mask" and one.finish_reason == "length")
        ]
        if places:
            kept.append(
                dataclasses.replace(
                    group,
                    completions=tuple(group.completions[j] for j in places),
                    rewards=tuple(group.rewards[j] for j in places),
                )
            )
            theirs.append([values[j] for j in places])
    return kept, theirs


def normalizer_of(groups: Sequence[Group], config: GRPOConfig) -> int:
    """What the sum of the loss is divided by: a count over the whole batch, whatever the rows.

    groups: all that were written, or those of `learnt_from`, as `config.normalize_by` says. By
    default groups without a signal count too (our choice: a step that has little to learn moves
    little). "constant" divides by all the tokens that could have been written, as Dr. GRPO does, so
    that the length of a completion does not weigh in.
    """
    completions = [one for group in groups for one in group.completions]
    if config.loss.reduction == "token-mean":
        return sum(len(one.ids) for one in completions)
    if config.loss.reduction == "constant":
        return len(completions) * config.max_new_tokens
    return len(completions)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step learns from: groups, their advantages by completion, and what the sum of the loss
    is divided by."""

    groups: Sequence[Group]
    advantages: Sequence[Sequence[float]]
    normalizer: int

    @property
    def pairs(self) -> list[tuple[Prompt, Sequence[Completion]]]:
        """As `Policy.rows` takes them."""
        return [(group.prompt, group.completions) for group in self.groups]


def grpo_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    *,
    config: GRPOConfig,
    reference: Policy | None = None,
) -> dict[str, float]:
    """Update `policy` `config.num_iterations` times on the same groups, and say what happened.

    Groups whose rewards are all equal never reach the forward. A non-finite loss or gradient skips
    the update ("skipped" 1), and those that would follow it. `reference` is the policy of the KL
    term. Numbers are means over the updates; `tokens_trained` is their sum.

    On several ranks each is given all groups, the same ones (`GRPOLearner.agreed`), trains on its
    share, balanced by tokens, and returns the same numbers.

    Raises UserError where rollout and trainer disagree by more than `config.mismatch_max` (mean k3
    estimate of KL per token).
    """
    advantages, signal = advantages_of(groups, config)
    kept, theirs = learnt_from(groups, advantages, signal, config)
    metrics = {
        "tokens": float(sum(len(one.ids) for group in groups for one in group.completions)),
        "tokens_trained": 0.0,
        "dead_groups": 1 - sum(signal) / len(groups),
        "cut_replies": cut_share(groups),
        "loss": 0.0,
        "grad_norm": 0.0,
        "skipped": 0.0,
    }
    if not kept:
        return metrics
    counted = kept if config.normalize_by == "live" else groups
    batch = Batch(groups=kept, advantages=theirs, normalizer=normalizer_of(counted, config))
    policy.train()
    stored = stored_rows(policy, batch.pairs, config, reference) if stores(config) else None
    found: list[dict[str, float]] = []
    while len(found) < config.num_iterations and not (found and found[-1]["skipped"]):
        found.append(_update(policy, optimizer, batch, stored, config=config, reference=reference))
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    totals = {name: sum(one[name] for one in found) for name in ("tokens_trained", "skipped")}
    return metrics | means | totals


def _update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    stored: Sequence[Stored] | None,
    *,
    config: GRPOConfig,
    reference: Policy | None,
) -> dict[str, float]:
    """One optimizer step. stored: of each row where log-probs before the first one are needed."""
    optimizer.zero_grad(set_to_none=True)
    sums = StepSums(config=config, band=loss_config(config.loss).log_band, device=policy.device)
    settings = banded_loss(config)
    for number, (row, pieces) in enumerate(policy.rows(batch.pairs, config.tokens_per_batch)):
        before = None if stored is None else stored[number]
        by_completion = torch.tensor(
            [batch.advantages[piece.group][j] for piece in pieces for j in piece.picked]
        )
        ref_logp = reference_logp(reference, row, config) if before is None else before.ref_logp
        terms = LossTerms(
            advantages=by_completion[row.owner],
            normalizer=batch.normalizer,
            config=settings,
            ref_logp=ref_logp,
            old_logp=None if before is None else before.logp,
            mask=None if before is None else before.mask,
        )
        loss, measured = policy(row, terms, temperature=config.temperature)
        loss.backward()
        sums.add(row, loss.detach(), measured, before)
    metrics = sums.result(policy.ranks)
    policy.forget_dummy(batch.pairs)
    norm = policy.ranks.grad_norm(policy, config.max_grad_norm)
    fit = math.isfinite(norm) and math.isfinite(metrics["loss"])
    if fit and norm > 0:  # momentum must not move weights where bounds have left out every token
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return metrics | {"grad_norm": norm, "skipped": 0.0 if fit else 1.0}
