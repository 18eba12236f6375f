"""`policy_loss`: the loss of loss_terms.py over tokens whose log-probs are at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import use_triton, wide
from .loss_terms import (
    METRICS,
    PolicyLossConfig,
    as_scalar,
    check_terms,
    named,
    sequence_index,
    sum_by,
    summary,
    token_terms,
    token_weights,
)


def policy_loss_oracle(
    logp: Tensor,
    advantages: Tensor,
    *,
    old_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    rollout_logp: Tensor | None = None,
    mask: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    entropy: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    config: PolicyLossConfig | None = None,
) -> Tensor:
    """What `policy_loss` means, with autograd and plain loops over nothing."""
    config = config or PolicyLossConfig()
    live = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask.bool()
    # Replaced before any arithmetic: a masked NaN must not reach the gradient through 0 * NaN.
    now = logp.where(live, 0.0)
    gain = advantages.where(live, 0.0)
    old = (now.detach() if old_logp is None else old_logp.detach()).where(live, 0.0)
    bound = config.log_ratio_clamp
    log_ratio = now - old
    if config.ratio == "sequence":
        log_ratio = _sequence_mean(log_ratio, live, sequence_ids)
    ratio = log_ratio.clamp(-bound, bound).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    if config.ratio == "cispo":
        loss = -(clipped.detach() * gain * now)
    elif config.ratio == "sapo":
        tau = torch.where(gain > 0, config.sapo_pos, config.sapo_neg)
        loss = -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * gain
    else:
        loss = -torch.where(ratio * gain <= clipped * gain, ratio * gain, clipped * gain)
        if config.dual_clip is not None:
            ceiling = -config.dual_clip * gain
            loss = torch.where((gain < 0) & (loss > ceiling), ceiling, loss)
    kl = torch.zeros_like(now)
    if ref_logp is not None:
        kl = _kl((ref_logp.detach().where(live, 0.0) - now).clamp(-bound, bound), config.kl)
        if config.kl_coef:
            loss = loss + config.kl_coef * (kl * ratio if config.kl_unbiased else kl)
    if entropy is not None and config.entropy_coef:
        loss = loss - config.entropy_coef * entropy.where(live, 0.0)
    if config.tis_cap is not None:
        gap = (old - rollout_logp.detach().where(live, 0.0)).clamp(-bound, bound)
        loss = loss * gap.exp().clamp(max=config.tis_cap)
    loss = torch.where(now.isnan() | gain.isnan(), torch.nan, loss).where(live, 0.0)
    return _reduce(loss, live, sequence_ids, normalizer, config.reduction)


def _kl(d: Tensor, kind: str) -> Tensor:
    """Schulman's estimators of KL(policy || reference), d = ref - logp."""
    if kind == "k1":
        return -d
    if kind == "k2":
        return d.square() / 2
    return d.exp() - d - 1


def _sequence_mean(values: Tensor, live: Tensor, sequence_ids: Tensor) -> Tensor:
    ids = torch.unique(sequence_ids, return_inverse=True)[1]
    count = int(ids.max()) + 1 if len(ids) else 0
    total = values.new_zeros(count).index_add(0, ids, values.where(live, 0.0))
    size = values.new_zeros(count).index_add(0, ids, live.to(values.dtype))
    return (total / size.clamp(min=1))[ids]


def _reduce(
    loss: Tensor, live: Tensor, sequence_ids: Tensor | None, normalizer, reduction: str
) -> Tensor:
    if reduction in ("token-mean", "constant"):
        size = live.sum().clamp(min=1) if normalizer is None else normalizer
        return loss.sum() / size
    ids = torch.unique(sequence_ids, return_inverse=True)[1]
    count = int(ids.max()) + 1 if len(ids) else 0
    sums = loss.new_zeros(count).index_add(0, ids, loss)
    sizes = loss.new_zeros(count).index_add(0, ids, live.to(loss.dtype))
    if reduction == "seq-mean":
        sums = sums / sizes.clamp(min=1)
    return sums.sum() / ((sizes > 0).sum().clamp(min=1) if normalizer is None else normalizer)


# --- the operator -------------------------------------------------------------------------------


@torch.library.custom_op("sectow::policy_loss", mutates_args=())
def policy_loss_op(
    logp: Tensor,
    entropy: Tensor | None,
    advantages: Tensor,
    old_logp: Tensor | None,
    ref_logp: Tensor | None,
    rollout_logp: Tensor | None,
    mask: Tensor | None,
    sequence_ids: Tensor | None,
    normalizer: Tensor | None,
    kinds: str,
    numbers: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, d loss / d logp [N], d loss / d entropy [N], metrics)."""
    config = PolicyLossConfig.of(kinds, numbers)
    dtype = wide(logp.dtype)
    live = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask.bool()

    def clean(tensor: Tensor | None) -> Tensor | None:
        # Replaced, not multiplied away: whatever a masked row holds never enters arithmetic.
        return None if tensor is None else tensor.to(dtype).where(live, 0.0)

    now, gain, felt = clean(logp), clean(advantages), clean(entropy)
    old = now if old_logp is None else clean(old_logp)
    index = None if sequence_ids is None else sequence_index(sequence_ids)
    weights = token_weights(live, index, normalizer, config.reduction, dtype)
    log_ratio = now - old
    if config.ratio == "sequence":
        sizes = sum_by(live.to(dtype), index).clamp(min=1)
        log_ratio = (sum_by(log_ratio, index) / sizes)[index]
    given = now, gain, log_ratio, old, clean(ref_logp), clean(rollout_logp), felt, config
    if use_triton(logp):
        from .loss_triton import token_terms_triton

        terms = token_terms_triton(*given)
    else:
        terms = token_terms(*given)
    loss = (terms.loss.where(live, 0.0) * weights).sum()
    d_ratio = (terms.d_ratio * weights).where(live, 0.0)
    if config.ratio == "sequence":
        # Every token of a sequence moves the ratio of all of them.
        d_ratio = (sum_by(d_ratio, index) / sizes)[index].where(live, 0.0)
    d_logp = d_ratio + (terms.d_direct * weights).where(live, 0.0)
    d_entropy = (terms.d_entropy * weights).where(live, 0.0)
    return loss, d_logp, d_entropy, summary(terms, gain, felt, live, config, live.sum())


@policy_loss_op.register_fake
def _(logp, *_):
    dtype = wide(logp.dtype)
    rows = (logp.new_empty(logp.shape, dtype=dtype) for _ in range(2))
    return logp.new_empty((), dtype=dtype), *rows, logp.new_empty(len(METRICS), dtype=dtype)


def _setup(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[1], output[2])
    ctx.dtypes = inputs[0].dtype, None if inputs[1] is None else inputs[1].dtype


def _gradients(ctx, upstream, *_):
    d_logp, d_entropy = ctx.saved_tensors
    felt = ctx.dtypes[1] and (upstream * d_entropy).to(ctx.dtypes[1])
    return (upstream * d_logp).to(ctx.dtypes[0]), felt, *(None,) * 9


policy_loss_op.register_autograd(_gradients, setup_context=_setup)


def policy_loss(
    logp: Tensor,
    advantages: Tensor,
    *,
    old_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    rollout_logp: Tensor | None = None,
    mask: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    entropy: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    config: PolicyLossConfig | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metrics) of logp [N]; every other tensor [N] too. `loss` is a scalar.

    old_logp None: the policy itself, detached (one on-policy update). mask False: the row's
    content never matters, NaN included. sequence_ids int64: needed by sequence ratios and
    reductions. entropy: needed where entropy_coef is not 0. normalizer: what the sum is divided by
    (a global token or sequence count) in place of the local count. Gradients go to logp and
    entropy; anything else that asks for one is refused. A batch without a live row gives 0,
    connected to logp. At the very edge of the clip range the gradient passes, as torch's
    clamp has it. A live NaN gives a NaN loss.

    metrics (detached, on the device): ratio_mean, ratio_max, ratio_min, clip_low, clip_high
    (shares of live tokens), kl, entropy, live.
    """
    config = config or PolicyLossConfig()
    if not isinstance(logp, Tensor) or logp.ndim != 1:
        found = tuple(logp.shape) if isinstance(logp, Tensor) else type(logp).__name__
        raise ValueError(f"logp: found {found}, expected a tensor [N]")
    count, device = len(logp), logp.device
    checks.check_rows("logp", logp, count, device, gradient=True)
    if config.entropy_coef != 0 and entropy is None:
        raise ValueError("entropy: found None, but the configuration needs it")
    checks.check_rows("entropy", entropy, count, device, gradient=True)
    check_terms(
        *(count, device, config),
        advantages=advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=mask,
        sequence_ids=sequence_ids,
        normalizer=normalizer,
    )
    loss, _, _, metrics = policy_loss_op(
        *(logp, entropy, advantages, old_logp, ref_logp, rollout_logp, mask, sequence_ids),
        *(as_scalar(normalizer, device), config.kinds(), config.numbers()),
    )
    return loss, named(metrics)
