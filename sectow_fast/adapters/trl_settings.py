"""TRL's settings, read as the fused loss takes them; what has no equal is refused by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from trl import GRPOTrainer

from sectow_fast.kernels import PolicyLossConfig

REDUCTIONS = {
    "grpo": "seq-mean",
    "bnpo": "token-mean",
    "dr_grpo": "constant",
    "dapo": "token-mean",
    "cispo": "token-mean",
    "sapo": "seq-mean",
    "luspo": "constant",
}
BY_TOKEN = ("cispo", "sapo")  # matched with token ratios, without the two-sided clip
SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier")  # they multiply the logits


def refusals(trainer: GRPOTrainer) -> list[str]:
    """The settings of the trainer that the fused loss does not match, one line per setting."""
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
        "use_liger_kernel: expected False": args.use_liger_kernel,
        "router_aux_loss_coef (mixture of experts): expected none": trainer.aux_loss_enabled,
        f"delta {args.delta}: expected None or at least 1 + epsilon_high = {1 + high:g}": (
            args.delta is not None and (args.delta < 1 + high or trainer.loss_type in BY_TOKEN)
        ),
        f"epsilon_high {high}: expected over 1 with loss_type 'cispo' (the largest ratio)": (
            trainer.loss_type == "cispo" and high <= 1
        ),
        f"importance_sampling_level 'sequence': expected 'token' with {trainer.loss_type!r}": (
            trainer.loss_type in BY_TOKEN and trainer.importance_sampling_level != "token"
        ),
        "DeepSpeed ZeRO stage 3 (a head in shards): expected at most stage 2, or FSDP2": (
            getattr(args.deepspeed_plugin, "zero_stage", 0) == 3
        ),
        f"a model that scales its logits by {logit_scale(text)}: expected a number over 0": (
            logit_scale(text) <= 0
        ),
    }
    return [line for line, refused in found.items() if refused]


def logit_scale(text: Any) -> float:
    """What the model multiplies its logits by, read from its text configuration as TRL reads it."""
    for name in SCALES:
        if getattr(text, name, None) is not None:
            return float(getattr(text, name))
    divisor = getattr(text, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return divisor if text.model_type == "hyperclovax" else 1 / divisor


def loss_config(trainer: GRPOTrainer) -> PolicyLossConfig:
    """TRL's settings as the operator's."""
    cispo = trainer.loss_type == "cispo"
    return PolicyLossConfig(
        # TRL's CISPO bounds the ratio from above alone, and epsilon_high is that bound.
        clip_low=1.0 if cispo else trainer.epsilon_low,
        clip_high=trainer.epsilon_high - 1.0 if cispo else trainer.epsilon_high,
        dual_clip=trainer.args.delta,
        kl_coef=trainer.beta,
        kl_unbiased=trainer.args.use_bias_correction_kl,
        sapo_pos=trainer.args.sapo_temperature_pos,
        sapo_neg=trainer.args.sapo_temperature_neg,
        ratio=trainer.loss_type
        if trainer.loss_type in BY_TOKEN
        else trainer.importance_sampling_level,
        reduction=REDUCTIONS[trainer.loss_type],
    )


def normalizer_of(
    trainer: Any, inputs: dict[str, Any], mask: Tensor, steps: int, training: bool
) -> tuple[Any, float]:
    """(the operator's normalizer, what its loss is divided by after that), as TRL reduces."""
    if trainer.loss_type in ("grpo", "sapo", "luspo"):
        return len(mask), steps
    if trainer.loss_type == "bnpo":
        return mask.sum().clamp(min=1), steps
    if trainer.loss_type == "dr_grpo":
        return len(mask) * trainer.max_completion_length, steps
    items = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
    return (items * steps / trainer.args.steps_per_generation if training else items), 1.0
