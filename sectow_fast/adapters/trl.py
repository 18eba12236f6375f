"""TRL's `GRPOTrainer` with the fused loss: three products instead of four, dead rows left out.

    with sectow_fast.adapters.trl.patch(trainer):
        trainer.train()

What is computed stays TRL's: data, rollout, rewards, advantages, reductions, logged measures. Only
head and loss become one operator (`kernels.linear_policy_loss`). Of TRL's options each is either
matched or refused by name (`refusals`). Not the same: the ratio is clamped at exp(+-20), and the
logged entropy is a mean over the rows that went through the head (docs/EMBEDDING.md).
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import FusedCausalLMOutput, nanmax, nanmin

from sectow_fast.kernels import PolicyLossConfig, linear_policy_loss

TESTED = (1, 16)  # TRL's seams move between minor versions

if tuple(int(part) for part in version("trl").split(".")[:2]) != TESTED:
    raise ImportError(
        f"sectow_fast.adapters.trl: found TRL {version('trl')}, expected"
        f" {'.'.join(map(str, TESTED))}.*: its loss is replaced inside, so other versions need a"
        " new look; pip install 'trl==1.16.*'"
    )

REDUCTIONS = {
    "grpo": "seq-mean",
    "bnpo": "token-mean",
    "dr_grpo": "constant",
    "dapo": "token-mean",
    "cispo": "token-mean",
}
SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class SectowGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with the fused loss, for as long as it lives."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _install(self)


@contextlib.contextmanager
def patch(trainer: GRPOTrainer) -> Iterator[GRPOTrainer]:
    """The fused loss inside the block, TRL's own after it. ValueError: an option that is not
    matched, by its name."""
    restore = _install(trainer)
    try:
        yield trainer
    finally:
        restore()


def refusals(trainer: GRPOTrainer) -> list[str]:
    """What of the trainer's settings the fused loss does not match, a line each."""
    args, text = trainer.args, trainer.model.config.get_text_config()
    high = trainer.epsilon_high
    found = {
        f"loss_type {trainer.loss_type!r}: expected one of {', '.join(REDUCTIONS)}": (
            trainer.loss_type not in REDUCTIONS
        ),
        f"top_entropy_quantile {trainer.top_entropy_quantile}: expected 1.0": (
            trainer.top_entropy_quantile < 1.0
        ),
        "entropy_coef or an entropy target: expected none": trainer._entropy_bonus_enabled,
        f"off_policy_mask_threshold {trainer.off_policy_mask_threshold}: expected None": (
            trainer.off_policy_mask_threshold is not None
        ),
        "use_bias_correction_kl: expected False": args.use_bias_correction_kl and trainer.beta != 0,
        "cast_lm_head_to_fp32: expected False": args.cast_lm_head_to_fp32,
        "use_liger_kernel: expected False": args.use_liger_kernel,
        "router_aux_loss_coef (mixture of experts): expected none": trainer.aux_loss_enabled,
        f"delta {args.delta}: expected None or at least 1 + epsilon_high = {1 + high:g}": (
            args.delta is not None and (args.delta < 1 + high or trainer.loss_type == "cispo")
        ),
        f"epsilon_high {high}: expected over 1 with loss_type 'cispo' (the largest ratio)": (
            trainer.loss_type == "cispo" and high <= 1
        ),
        "importance_sampling_level 'sequence': expected 'token' with loss_type 'cispo'": (
            trainer.loss_type == "cispo" and trainer.importance_sampling_level != "token"
        ),
        f"a model that scales its logits ({type(trainer.model).__name__}): expected none": any(
            getattr(text, name, None) is not None for name in SCALES
        ),
    }
    return [line for line, refused in found.items() if refused]


def loss_config(trainer: GRPOTrainer) -> PolicyLossConfig:
    """TRL's settings as the operator's."""
    cispo = trainer.loss_type == "cispo"
    return PolicyLossConfig(
        # TRL's CISPO bounds the ratio from above alone, and epsilon_high is that bound.
        clip_low=1.0 if cispo else trainer.epsilon_low,
        clip_high=trainer.epsilon_high - 1.0 if cispo else trainer.epsilon_high,
        dual_clip=trainer.args.delta,
        kl_coef=trainer.beta,
        ratio="cispo" if cispo else trainer.importance_sampling_level,
        reduction=REDUCTIONS[trainer.loss_type],
    )


def _install(trainer: GRPOTrainer) -> Any:
    """Replace head and loss; returns what puts TRL's own back."""
    found = refusals(trainer)
    if found:
        raise ValueError(f"sectow_fast.adapters.trl: found {found[0]}; see docs/EMBEDDING.md")
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    # TRL put its fused head there; generation and reference log-probs go on through it.
    head = FusedHead(model.forward)
    model.forward = types.MethodType(head.forward, model)
    trainer._compute_loss = types.MethodType(_loss_by(head), trainer)

    def restore() -> None:
        model.forward = head.before
        del trainer._compute_loss

    return restore


class FusedHead:
    """Stands where TRL's fused head stands. `asked` is set for the length of one loss."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.asked: dict[str, Any] | None = None
        self.loss: Tensor | None = None
        self.measured: dict[str, Tensor] = {}

    def forward(self, model: Any, *args: Any, **options: Any) -> Any:
        if self.asked is None or not options.pop("fused_lm_head", False):
            return self.before(*args, **options)
        labels, tokens = options.pop("labels"), self.asked["tokens"]
        hidden = model.base_model(*args, use_cache=False, **options).last_hidden_state
        rows = hidden[:, -tokens - 1 : -1].flatten(0, 1)
        lm_head = model.get_output_embeddings()
        self.loss, self.measured = linear_policy_loss(
            rows,
            lm_head.weight,
            labels[:, -tokens:].flatten(),
            bias=lm_head.bias,
            softcap=getattr(model.config.get_text_config(), "final_logit_softcapping", None),
            **self.asked["given"],
        )
        logp = self.measured["logp"].view(len(labels), tokens)
        return FusedCausalLMOutput(loss=self.loss, log_probs=logp, entropy=logp)


def _loss_by(head: FusedHead) -> Any:
    def compute(trainer: GRPOTrainer, model: Any, inputs: dict[str, Any]) -> Tensor:
        return _fused_loss(trainer, model, inputs, head)

    return compute


MODEL_INPUTS = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes"),
    *("num_tiles", "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)


def _fused_loss(trainer: Any, model: Any, inputs: dict[str, Any], head: FusedHead) -> Tensor:
    """`GRPOTrainer._compute_loss`, with head and loss as one operator."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attended = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    batch, tokens = inputs["completion_ids"].shape
    mask = inputs["completion_mask"]
    mask = (mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).bool()
    advantages = inputs["advantages"]
    gain = (advantages if advantages.dim() == 2 else advantages[:, None]).expand(batch, tokens)
    if trainer.use_vllm and trainer.vllm_importance_sampling_correction:
        # A ratio >= 0 on the clipped term alone is the same as one on the advantage.
        gain = gain * inputs["importance_sampling_ratio"]
    training = trainer.model.training
    steps = trainer.current_gradient_accumulation_steps if training else 1
    normalizer, divisor = _normalizer(trainer, inputs, batch, steps, training)
    old, ref = inputs.get("old_per_token_logps"), inputs.get("ref_per_token_logps")
    config = loss_config(trainer)
    if config.ratio == "sequence" or config.reduction == "seq-mean":
        sequences = torch.arange(batch, device=ids.device).repeat_interleave(tokens)
    else:
        sequences = None
    head.asked = {
        "tokens": tokens,
        "given": {
            "advantages": gain.flatten(),
            "old_logp": None if old is None else old.flatten(),
            "ref_logp": ref.flatten() if trainer.beta else None,
            "mask": mask.flatten(),
            "sequence_ids": sequences,
            "normalizer": normalizer,
            "config": config,
            "temperature": trainer.temperature,
        },
    }
    try:
        trainer._get_per_token_logps_and_entropies(
            model, ids, attended, tokens, **{name: inputs.get(name) for name in MODEL_INPUTS}
        )
        loss, measured = head.loss, head.measured
    finally:
        head.asked = head.loss = None
        head.measured = {}
    scored = measured["scored"].view(batch, tokens)
    logp = measured["logp"].view(batch, tokens)
    before = logp if old is None else old
    log_ratio = (logp - before).where(scored, 0.0)
    _log(trainer, measured, mask, gain, log_ratio, logp, ref)
    return loss / divisor


def _normalizer(
    trainer: Any, inputs: dict[str, Any], batch: int, steps: int, training: bool
) -> tuple[Any, float]:
    """(the operator's normalizer, what its loss is divided by after that), as TRL reduces."""
    if trainer.loss_type == "grpo":
        return batch, steps
    if trainer.loss_type == "bnpo":
        return None, steps
    if trainer.loss_type == "dr_grpo":
        return batch * trainer.max_completion_length, steps
    items = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
    return (items * steps / trainer.args.steps_per_generation if training else items), 1.0


def _log(
    trainer: Any,
    measured: dict[str, Tensor],
    mask: Tensor,
    gain: Tensor,
    log_ratio: Tensor,
    logp: Tensor,
    ref: Tensor | None,
) -> None:
    """TRL's measures under TRL's names."""
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    counts = mask.sum(1).clamp(min=1)
    by_sequence = trainer.importance_sampling_level == "sequence"
    if by_sequence:
        log_ratio = ((log_ratio * mask).sum(1) / counts)[:, None]
        gain = gain[:, :1]

    def over_all(value: Tensor) -> float:
        own = value.shape[1] == 1
        parts = (value.sum(), len(value)) if own else ((value * mask).sum(), mask.sum())
        sums = torch.stack([torch.as_tensor(p, device=value.device).float() for p in parts])
        total, count = trainer.accelerator.reduce(sums, reduction="sum")
        return (total / count.clamp(min=1.0)).item()

    def by_row(value: Tensor) -> Tensor:
        own = value.shape[1] == 1
        return value[:, 0] if own else (value * mask).sum(1) / mask.sum(1)

    if trainer.beta:
        drift = ref - logp
        metrics["kl"].append(over_all((drift.exp() - drift - 1).where(mask, 0.0)))
    entropy = trainer.accelerator.gather(measured["entropy"].detach().reshape(1))
    metrics["entropy"].append(entropy.nanmean().item())
    ratio = log_ratio.exp()
    if trainer.loss_type == "cispo":
        over = (ratio > trainer.epsilon_high) & (gain > 0)
        metrics["cispo_clip_ratio"].append(over_all(over.float()))
        return
    low = ((ratio < 1 - trainer.epsilon_low) & (gain < 0)).float()
    high = ((ratio > 1 + trainer.epsilon_high) & (gain > 0)).float()
    metrics["clip_ratio/low_mean"].append(over_all(low))
    metrics["clip_ratio/high_mean"].append(over_all(high))
    metrics["clip_ratio/region_mean"].append(over_all(low + high))
    every = trainer.accelerator.gather
    # A row without a live token has no share: 0 / 0, which is left out as TRL leaves it out.
    metrics["clip_ratio/low_min"].append(nanmin(every(by_row(low))).item())
    metrics["clip_ratio/high_max"].append(nanmax(every(by_row(high))).item())
