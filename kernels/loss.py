"""`policy_loss`: the loss of loss_terms.py over tokens whose log-probs are at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .dispatch import use_triton, wide
from .loss_config import PolicyLossConfig, loss_operator
from .loss_metrics import METRICS, loss_metrics, named
from .loss_registry import policy_loss_named
from .loss_terms import TokenInputs, check_loss_inputs, live_only, token_terms
from .loss_weights import as_scalar, sequence_index, sum_by, token_weights


@loss_operator("sectow::policy_loss")
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
    *,
    config: PolicyLossConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss, d loss / d logp [N], d loss / d entropy [N], metrics, d loss / d log-ratio [N]).

    The last is for losses per token of ratios over sequences: there every token moves the losses of
    its sequence, and how is known only with the upstream gradient. It is empty elsewhere, where the
    derivative by logp holds it.
    """
    dtype = wide(logp.dtype)
    live = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask.bool()
    clean = live_only(live, dtype)
    logp = clean(logp)
    entropy = None if entropy is None else clean(entropy)
    inputs = TokenInputs(
        advantages=advantages, old_logp=old_logp, ref_logp=ref_logp, rollout_logp=rollout_logp
    ).each(clean)
    index = None if sequence_ids is None else sequence_index(sequence_ids)
    weights = token_weights(live, index, normalizer, config.reduction, dtype)
    log_ratio = logp - (logp if inputs.old_logp is None else inputs.old_logp)
    over_sequences = config.policy_loss.over == "sequence"
    if over_sequences:
        log_ratio = (sum_by(log_ratio, index) / sizes_by(live, index, dtype))[index]
    make_terms = token_terms
    if use_triton(logp):
        from .loss_triton import token_terms_triton as make_terms
    terms = make_terms(
        logp=logp, log_ratio=log_ratio, inputs=inputs, entropy=entropy, config=config
    )
    loss = terms.loss.where(live, 0.0)
    if config.reduction != "none":
        loss = (loss * weights).sum()
    d_log_ratio = (terms.d_log_ratio * weights).where(live, 0.0)
    d_logp, later = (terms.d_logp * weights).where(live, 0.0), d_log_ratio.new_empty(0)
    if over_sequences and config.reduction == "none":
        later = d_log_ratio
    elif over_sequences:
        d_logp = by_sequence(d_log_ratio, live, index) + d_logp
    else:
        d_logp = d_log_ratio + d_logp
    d_entropy = (terms.d_entropy * weights).where(live, 0.0)
    metrics = loss_metrics(
        ratio=terms.ratio,
        kl=terms.kl,
        advantages=inputs.advantages,
        entropy=entropy,
        live=live,
        count=live.sum(),
        config=config,
    )
    return loss, d_logp, d_entropy, metrics, later


def sizes_by(live: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return sum_by(live.to(dtype), index).clamp(min=1)


def by_sequence(d_log_ratio: Tensor, live: Tensor, index: Tensor) -> Tensor:
    """By each token's log-prob: every token of a sequence moves the ratio of all of them."""
    sizes = sizes_by(live, index, d_log_ratio.dtype)
    return (sum_by(d_log_ratio, index) / sizes)[index].where(live, 0.0)


@policy_loss_op.register_fake
def _(logp, *_, ratio, reduction, **__):
    dtype = wide(logp.dtype)
    none = reduction == "none"
    d_logp, d_entropy = (logp.new_empty(logp.shape, dtype=dtype) for _ in range(2))
    loss = logp.new_empty(logp.shape if none else (), dtype=dtype)
    metrics = logp.new_empty(len(METRICS), dtype=dtype)
    later = none and policy_loss_named(ratio).over == "sequence"
    return loss, d_logp, d_entropy, metrics, logp.new_empty(len(logp) if later else 0, dtype=dtype)


def _setup(ctx, inputs, keyword_only_inputs, output) -> None:
    logp, entropy, *rest = inputs
    mask, sequence_ids, _ = rest[-3:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[1], output[2], output[4], mask, sequence_ids)
    ctx.later = (
        keyword_only_inputs["reduction"] == "none"
        and policy_loss_named(keyword_only_inputs["ratio"]).over == "sequence"
    )
    ctx.dtypes = logp.dtype, None if entropy is None else entropy.dtype
    ctx.constants = len(rest)


def _gradients(ctx, upstream, *_):
    d_logp, d_entropy, later, mask, sequence_ids = ctx.saved_tensors
    logp_dtype, entropy_dtype = ctx.dtypes
    if mask is not None and upstream.ndim:
        upstream = upstream.where(mask.bool(), 0.0)  # of a masked token it may be NaN
    g_logp = upstream * d_logp
    if ctx.later:
        live = torch.ones_like(d_logp, dtype=torch.bool) if mask is None else mask.bool()
        index = sequence_index(sequence_ids)
        g_logp = by_sequence(upstream * later, live, index) + g_logp
    d_entropy = None if entropy_dtype is None else (upstream * d_entropy).to(entropy_dtype)
    return g_logp.to(logp_dtype), d_entropy, *(None,) * ctx.constants


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
    """(loss, metrics) of logp [N]; every other tensor is [N] too. `loss` is a scalar,
    or [N] with the reduction "none", which takes any upstream gradient.

    old_logp None: the policy itself, detached (one on-policy update). mask False: the row's
    content never matters, NaN included. sequence_ids int64: needed by sequence ratios and
    reductions. entropy: needed where entropy_coef is not 0. normalizer: what the sum is divided by
    (a global token or sequence count) in place of the local count. Gradients go to logp and
    entropy; anything else that asks for one is refused. A batch without a live row gives 0,
    connected to logp. At the very edge of the clip range the gradient passes, as torch's
    clamp has it. A live NaN gives a NaN loss.

    metrics (detached, on the device): ratio_mean, ratio_max, ratio_min, clip_low, clip_high
    (shares of live tokens), kl, entropy, live. ValueError names an argument that does not fit.
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
    check_loss_inputs(
        count=count,
        device=device,
        config=config,
        advantages=advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=mask,
        sequence_ids=sequence_ids,
        normalizer=normalizer,
    )
    loss, _, _, metrics, _ = policy_loss_op(
        logp=logp,
        entropy=entropy,
        advantages=advantages,
        old_logp=old_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        mask=mask,
        sequence_ids=sequence_ids,
        normalizer=as_scalar(normalizer, device),
        **config.scalars(),
    )
    return loss, named(metrics)
