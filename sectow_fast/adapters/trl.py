"""TRL's `GRPOTrainer` with the fused loss: three products instead of four, dead rows left out.

    with sectow_fast.adapters.trl.patch(trainer, shared_prefix=True):
        trainer.train()

Data, rollout, rewards, advantages, reductions and logged measures stay TRL's. Only head and loss
become one operator (`kernels.linear_policy_loss`). With `shared_prefix` the model computes a prompt
once for all its completions of a micro-batch (trl_rows.py). Each option of TRL is either matched or
refused by name (`refusals`). Three things differ (docs/EMBEDDING.md): ratios are bounded by
exp(20); the logged entropy is a mean over the rows that went through the head; tokens whose vLLM
ratio is masked to 0 are left out, so the logged clip shares do not count them.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sectow_fast.extras import require
from sectow_fast.kernels import linear_policy_loss

require("trl")  # before the imports that would fail

from trl import GRPOTrainer  # noqa: E402
from trl.trainer.utils import FusedCausalLMOutput  # noqa: E402

from sectow_fast.adapters.trl_measures import log_measures  # noqa: E402
from sectow_fast.adapters.trl_settings import (  # noqa: E402
    logit_scale,
    loss_config,
    normalizer_of,
    refusals,
)

if TYPE_CHECKING:
    from sectow_fast.adapters.trl_rows import SharedBatch

TESTED = (1, 16)  # TRL's internals change between minor versions

if tuple(int(part) for part in version("trl").split(".")[:2]) != TESTED:
    raise ImportError(
        f"sectow_fast.adapters.trl: found TRL {version('trl')}, expected"
        f" {'.'.join(map(str, TESTED))}.*: its loss is replaced inside, so other versions need a"
        " new look; pip install 'trl==1.16.*'"
    )


class SectowGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` that always uses the fused loss."""

    def __init__(self, *args: Any, shared_prefix: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        _install(self, shared_prefix)


@contextlib.contextmanager
def patch(trainer: GRPOTrainer, *, shared_prefix: bool = False) -> Iterator[GRPOTrainer]:
    """The fused loss inside the block, TRL's own after it. ValueError names an option that is not
    matched.

    shared_prefix: the model computes each prompt of a micro-batch once, and leaves out completions
    without a signal. Attention inside the block is then ours (flex on CUDA, sdpa on a CPU), and
    the model's class must be one of `sectow_fast.families.FAMILIES`.
    """
    restore = _install(trainer, shared_prefix)
    try:
        yield trainer
    finally:
        restore()


def _install(trainer: GRPOTrainer, shared_prefix: bool) -> Callable[[], None]:
    """Replace head and loss; returns what puts TRL's own back."""
    found = refusals(trainer)
    if found:
        raise ValueError(f"sectow_fast.adapters.trl: found {found[0]}; see docs/EMBEDDING.md")
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    share, attention_back = None, None
    if shared_prefix:
        from sectow_fast.adapters.trl_rows import sharing

        share, attention_back = sharing(model)
    # TRL put its fused head there. Generation and reference log-probs still go through that one.
    head = FusedHead(model.forward, share, in_float32=trainer.args.cast_lm_head_to_fp32)
    model.forward = types.MethodType(head.forward, model)
    trainer._compute_loss = types.MethodType(_loss_by(head), trainer)

    def restore() -> None:
        model.forward = head.before
        del trainer._compute_loss
        if attention_back:
            attention_back()

    return restore


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one loss asks of the head. states: the model's last hidden states [., ., H] -> rows
    [N, H]; labels [N]; given: `linear_policy_loss`'s further arguments."""

    states: Callable[[Tensor], Tensor]
    labels: Tensor
    given: dict[str, Any]


class FusedHead:
    """Stands where TRL's fused head stands. `asked` is set for the length of one loss."""

    def __init__(
        self, before: Any, share: Callable[..., SharedBatch] | None, *, in_float32: bool = False
    ) -> None:
        self.before, self.share, self.in_float32 = before, share, in_float32
        self.asked: Asked | None = None
        self.loss: Tensor | None = None
        self.measured: dict[str, Tensor] = {}

    def forward(self, model: Any, *args: Any, **options: Any) -> Any:
        if self.asked is None or not options.pop("fused_lm_head", False):
            return self.before(*args, **options)
        labels = options.pop("labels", None)  # the unshared batch's, whose shape TRL looks at
        hidden = model.base_model(*args, use_cache=False, **options).last_hidden_state
        lm_head = model.get_output_embeddings()
        states, text = self.asked.states(hidden), model.config.get_text_config()
        outside_autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.in_float32:  # TRL made the head's weight float32
            states = states.float()
            outside_autocast = torch.autocast(states.device.type, enabled=False)
        with outside_autocast:
            self.loss, self.measured = linear_policy_loss(
                states,
                lm_head.weight,
                self.asked.labels,
                bias=lm_head.bias,
                softcap=getattr(text, "final_logit_softcapping", None),
                logit_scale=logit_scale(text),
                **self.asked.given,
            )
        logp = self.measured["logp"]
        logp = logp if labels is None else logp.view(len(labels), -1)
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
    batch, tokens = inputs["completion_ids"].shape
    mask = inputs["completion_mask"]
    mask = (mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).bool()
    advantages = inputs["advantages"]
    advantages = advantages if advantages.dim() == 2 else advantages[:, None]
    weighted = advantages.expand(batch, tokens)
    if trainer.use_vllm and trainer.vllm_importance_sampling_correction:
        # A ratio >= 0 that multiplies only the clipped term may as well multiply the advantage.
        weighted = weighted * inputs["importance_sampling_ratio"]
    training = trainer.model.training
    steps = trainer.current_gradient_accumulation_steps if training else 1
    normalizer, divisor = normalizer_of(trainer, inputs, mask, steps, training)
    old, ref = inputs.get("old_per_token_logps"), inputs.get("ref_per_token_logps")
    config = loss_config(trainer)
    sequences = torch.arange(mask.numel(), device=mask.device) // tokens
    by_sequence = config.ratio == "sequence" or config.reduction == "seq-mean"
    by_token = {
        "advantages": weighted,
        "old_logp": old,
        "ref_logp": ref if trainer.beta else None,
        "mask": mask,
        "sequence_ids": sequences if by_sequence else None,
    }
    rest = {"normalizer": normalizer, "config": config, "temperature": trainer.temperature}
    if head.share is None:
        shared, where = None, slice(None)
        labels = inputs["completion_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        labels = labels.flatten()
    else:
        taught = mask if trainer.beta else mask & (weighted != 0)
        shared = head.share(inputs, taught.any(1))
        where, labels = shared.where, shared.labels
    head.asked = Asked(
        states=shared.states
        if shared
        else lambda hidden: hidden[:, -tokens - 1 : -1].flatten(0, 1),
        labels=labels,
        given={n: None if t is None else t.flatten()[where] for n, t in by_token.items()} | rest,
    )
    try:
        if shared:
            with trainer.accelerator.autocast():
                model(**shared.model_inputs, fused_lm_head=True)
        else:
            _forward(trainer, model, inputs, tokens)
        loss, measured = head.loss, head.measured
    finally:
        head.asked = head.loss = None
        head.measured = {}
    logp, scored = torch.zeros_like(weighted, dtype=torch.float32), torch.zeros_like(mask)
    logp.view(-1)[where] = measured["logp"].to(logp.dtype)
    scored.view(-1)[where] = measured["scored"]
    before = logp if old is None else old
    log_ratio = (logp - before).where(scored, 0.0)
    log_measures(trainer, measured, mask, advantages, log_ratio, logp, ref)
    return loss / divisor


def _forward(trainer: Any, model: Any, inputs: dict[str, Any], tokens: int) -> None:
    """The model over TRL's own padded batch; TRL cuts the images."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attended = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    images = {name: inputs.get(name) for name in MODEL_INPUTS}
    trainer._get_per_token_logps_and_entropies(model, ids, attended, tokens, **images)
