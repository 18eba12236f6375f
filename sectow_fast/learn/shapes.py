"""A training step of real shapes with no numbers in it: its memory is counted, not guessed.

What the step allocates and frees is tracked (learn/fake.py).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.families import Family, family_of, join_pixels
from sectow_fast.learn import attention
from sectow_fast.learn.fake import Tracker, attend, only_shapes
from sectow_fast.learn.grpo import loss_config
from sectow_fast.learn.lora import add_adapters
from sectow_fast.learn.packing import PackedRow
from sectow_fast.learn.policy import LossTerms, Policy, make_policy
from sectow_fast.learn.sharding import sync_gradients
from sectow_fast.model_folder import auto_class
from sectow_fast.types import Completion, Prompt, UserError

aten = torch.ops.aten


FUSED = "shapes"
REPLIES = 8  # of one prompt in the probe row
PICTURE = 1024  # tokens of the probe's picture, where the prompt has room for it


@dataclass(frozen=True, kw_only=True)
class TrainingPeak:
    """Bytes of one player's update on one rank.

    masters: float32 weights, this rank's share. optimizer: Adam's moments, its share. gradients:
    they stay whole from the first micro-batch to the last. work: gathered weights, activations, the
    head and the gradients of one unit, in the heaviest moment. unit: this rank's share of the
    largest unit in float32, which passes the device where masters live in host memory. parameters:
    of the whole model.
    """

    masters: int
    optimizer: int
    gradients: int
    work: int
    unit: int
    parameters: int


class ProbeCodec:
    """A codec of nothing but sizes, for the probe row."""

    eos_id, pad_id, banned_ids = 1, 0, (0,)

    def __init__(self, family: Family, config: Any, tokens: int) -> None:
        self.image_id = family.image_id
        sees = getattr(config, "vision_config", None) is not None
        self.pixels = family.blank(config, tokens) if sees else {}

    def prefetch(self, prompts: Any) -> None:
        """Nothing: there are no files."""

    def pixel_inputs(self, prompts: Any) -> dict[str, torch.Tensor]:
        count = sum(len(prompt.images) for prompt in prompts)
        return join_pixels([self.pixels] * count) if count else {}


def probe_groups(
    codec: ProbeCodec, family: Family, *, prompt: int, reply: int, tokens: int
) -> list[tuple[Prompt, list[Completion]]]:
    """Groups that fill a row of `tokens`: prompts of the longest length with a picture each, and
    replies of the longest length. UserError where not one fits."""
    image = sum(family.image_tokens(codec.pixels)) if codec.pixels else 0
    ids = (*[family.image_id] * image, *[5] * max(prompt - image, 1))
    one = Prompt(case_id="probe", ids=ids, images=("picture",) if image else ())
    done = Completion(ids=(6,) * reply, logprobs=(-1.0,) * reply, finish_reason="length")
    groups, left = [], tokens
    while (room := (left - len(ids)) // reply) > 0:
        count = min(room, REPLIES)
        groups.append((one, [done] * count))
        left -= len(ids) + count * reply
    if not groups:
        raise UserError(
            f"tokens_per_batch: found {tokens}, expected at least {len(ids) + reply}: the longest"
            " prompt with the longest reply; raise it, or lower engine.context_length"
        )
    return groups


def training_peak(
    config: Any, learn: LearnConfig, grpo: GRPOConfig, *, context: int, world: int = 1
) -> TrainingPeak:
    """What one rank of `world` takes for an update of a model of this (transformers) config: the
    trainer's own forward and backward of the longest row, on fake tensors, tracked. The optimizer's
    step needs nothing of its own."""
    import transformers
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(config)
    kind = getattr(transformers, auto_class(config))
    with torch.device("meta"), no_init_weights():
        model = kind.from_config(config, dtype=torch.float32)
        model.tie_weights()
        if learn.lora_rank:
            add_adapters(model, rank=learn.lora_rank, alpha=learn.lora_alpha)
    with fake_world(world), only_shapes():
        _materialise(model)
        family = family_of(model)
        prompt = max(context - grpo.max_new_tokens, 2)
        codec = ProbeCodec(family, config, min(PICTURE, prompt - 1))
        groups = probe_groups(
            codec, family, prompt=prompt, reply=grpo.max_new_tokens, tokens=grpo.tokens_per_batch
        )
        plain = {"attention": "sdpa", "lora_rank": 0, "picture_gib": 0.0}
        learn = learn.model_copy(update=plain)
        policy = make_policy(model, codec, learn, apart=True)
        trained = [p for p in policy.parameters() if p.requires_grad]
        for parameter in trained:  # counted by themselves, since they leave where there is offload
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        peak = tracked(policy, groups, grpo)
        masters = sum(p.to_local().nbytes for p in policy.parameters())
        return TrainingPeak(
            masters=masters,
            optimizer=2 * sum(p.to_local().nbytes for p in trained),
            gradients=sum(p.nbytes for p in trained),
            work=peak - masters,
            unit=max(_unit_bytes(module) for module in policy.modules()),
            parameters=sum(p.numel() for p in policy.parameters()),
        )


def passes(policy: Policy, rows: Iterator[PackedRow], grpo: GRPOConfig) -> None:
    """The forward and backward of each row, with advantages of 1."""
    for row in rows:
        ones = torch.ones(len(row.labels), dtype=torch.long).float()
        terms = LossTerms(
            advantages=ones,
            normalizer=1.0,
            ref_logp=policy.sent(ones) if grpo.loss.kl_coef else None,
            config=loss_config(grpo.loss),
        )
        loss, _ = policy(row, terms, temperature=grpo.temperature)
        loss.backward()


def tracked(
    policy: Policy, groups: Sequence[tuple[Prompt, Sequence[Completion]]], grpo: GRPOConfig
) -> int:
    """The most bytes that lived at once in the forwards and backwards of the groups' rows, with
    attention as a fused kernel has it."""
    attention.install(policy.model, FUSED, attend)
    policy.train()
    rows = [row for row, _ in policy.rows(groups, grpo.tokens_per_batch)]  # these are on the host
    compute = policy.tower.compute

    def sent(pixels: Mapping[str, torch.Tensor], device: torch.device) -> Any:
        """On a card pixels are a copy, which here `to` does not make."""
        return compute({name: value.clone() for name, value in pixels.items()}, device)

    policy.tower.compute = sent  # type: ignore[method-assign]
    tracker = Tracker()
    tracker.track_external(policy)
    with tracker:
        passes(policy, sync_gradients(policy, iter(rows)), grpo)
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def _materialise(model: torch.nn.Module) -> None:
    """Meta tensors as those of the mode that is entered; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None and id(one) not in made:
                empty = torch.empty(one.shape, dtype=one.dtype)
                made[id(one)] = torch.nn.Parameter(empty, requires_grad=one.requires_grad)
            module._parameters[name] = None if one is None else made[id(one)]
        for name, one in module._buffers.items():
            module._buffers[name] = None if one is None else torch.zeros(one.shape, dtype=one.dtype)


def _unit_bytes(module: Any) -> int:
    """float32 bytes of this rank's share of an FSDP unit; 0 where it is none."""
    group = getattr(module, "_get_fsdp_state", lambda: None)()
    group = getattr(group, "_fsdp_param_group", None)
    return sum(p._sharded_param_data.nbytes for p in group.fsdp_params) if group else 0


@contextlib.contextmanager
def fake_world(world: int) -> Iterator[None]:
    """A process group of so many ranks that sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
