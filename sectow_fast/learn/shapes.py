"""A training step of real shapes with no numbers in it: its memory is counted, not guessed.

Floats are only shapes (FakeTensorMode). Integers and booleans (ids, positions, picture grids,
masks) are computed, since the code asks them how to go on. What the step allocates and frees is
tracked by torch's MemTracker. Kernels for a GPU alone stand as what they keep and return.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.families import Family, family_of
from sectow_fast.learn import attention
from sectow_fast.learn.grpo import loss_config
from sectow_fast.learn.lora import add_adapters
from sectow_fast.learn.policy import LossTerms, Policy, make_policy
from sectow_fast.learn.segments import Segments
from sectow_fast.learn.sharding import sync_gradients
from sectow_fast.types import Completion, Prompt, UserError

aten = torch.ops.aten


class FusedAttention(torch.autograd.Function):
    """The memory of a flash or flex kernel: it keeps q, k, v, its output and one float32 a row."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]).float())
        return out

    @staticmethod
    def backward(ctx, upstream):
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    **settings: Any,
) -> torch.Tensor:
    """A backend of `learn/attention.py` without numbers: [T, H, D] each -> [T, H, D]."""
    return FusedAttention.apply(query, key, value)


class _RealIntegers(TorchDispatchMode):
    """Runs for real what has only real tensors, or makes integers from nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        fake = any(isinstance(t, FakeTensor) for t in leaves)
        if fake and func is aten._local_scalar_dense.default:
            return 1.0 if leaves[0].is_floating_point() else 1
        if fake and func is aten.nonzero.default:  # a mask that is not known keeps everything
            return torch.zeros(leaves[0].numel(), leaves[0].dim(), dtype=torch.long)
        if not leaves:
            made = func(*args, **kwargs)
            if not isinstance(made, torch.Tensor) or made.is_floating_point():
                return made
        if not fake and "c10d" not in str(func):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            args = (args[0], _places(args[1]), *args[2:])
        return func(*args, **kwargs)


def _places(indices: Any) -> list[torch.Tensor | None]:
    """Boolean indices as the integers that they stand for."""
    out: list[torch.Tensor | None] = []
    for one in indices:
        if one is None or one.dtype != torch.bool:
            out.append(one)
        elif isinstance(one, FakeTensor):
            out += [torch.zeros(one.numel(), dtype=torch.long) for _ in range(one.dim())]
        else:
            with unset_fake_temporarily():
                out += one.nonzero(as_tuple=True)
    return out


@contextlib.contextmanager
def only_shapes() -> Iterator[None]:
    """Inside, floats that are made have a shape and no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True), _RealIntegers():
        yield


class Tracker(MemTracker):
    """MemTracker with what a fused head needs inside, and without a report for each module."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        scratch = None
        if "linear_policy_loss" in str(func):
            states, weight, _, labels = args[:4]
            # The sum of dW is float32; logits are of a chunk of rows (kernels/head_chunks.py).
            numbers = weight.numel() + min(CHUNK, len(labels)) * len(weight) * states.itemsize // 4
            scratch = super().__torch_dispatch__(
                aten.empty.memory_format, (), ([numbers],), {"dtype": torch.float32}
            )
        out = super().__torch_dispatch__(func, types, args, kwargs)
        del scratch
        return out

    def _update_peak_stats(self, peak_state: Any) -> None:
        for device, now in self._curr_mem_snap.items():
            if self._peak_mem.get(device, 0) < now["Total"]:
                self._peak_mem[device] = now["Total"]
                self._peak_mem_snap[device] = dict(now)

    def _no_report(self, *_: Any) -> None:
        """Which module it was does not matter here."""

    _pre_fw_hook = _post_fw_hook = _pre_bw_hook = _post_bw_hook = _no_report


FUSED = "shapes"
CHUNK = 4096  # rows of logits that the head holds at once
REPLIES = 8  # of one prompt in the probe row
PICTURE = 1024  # tokens of the probe's picture, where the prompt has room for it


@dataclass(frozen=True, kw_only=True)
class TrainingPeak:
    """Bytes of one player's update on one rank.

    masters: float32 weights, this rank's share. optimizer: Adam's moments, its share. gradients:
    they stay whole from the first micro-batch to the last. work: gathered weights, activations, the
    head and the gradients of one unit, in the heaviest moment. unit: the largest unit in float32,
    which passes the device where masters live in host memory. parameters: of the whole model.
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
        self.image_id, self.pixels = family.image_id, {}
        vision = getattr(config, "vision_config", None)
        if vision is not None and family.axes == 3:
            merge = vision.spatial_merge_size
            side = max(int(tokens**0.5), 1) * merge
            patch = 3 * vision.temporal_patch_size * vision.patch_size**2
            self.pixels = {
                "pixel_values": torch.zeros(side * side, patch, dtype=torch.float32),
                "image_grid_thw": torch.tensor([[1, side, side]]),
            }
        elif vision is not None:
            shape = (1, 3, vision.image_size, vision.image_size)
            self.pixels = {"pixel_values": torch.zeros(shape)}

    def prefetch(self, prompts: Any) -> None:
        """Nothing: there are no files."""

    def pixel_inputs(self, prompts: Any) -> dict[str, torch.Tensor]:
        count = sum(len(prompt.images) for prompt in prompts)
        return {name: torch.cat([one] * count) for name, one in self.pixels.items() if count}


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
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(config)
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
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


def tracked(
    policy: Policy, groups: Sequence[tuple[Prompt, Sequence[Completion]]], grpo: GRPOConfig
) -> int:
    """The most bytes that lived at once in the forwards and backwards of the groups' rows, with
    attention as a fused kernel has it."""
    attention.install(policy.model, FUSED, attend)
    policy.train()
    rows = [row for row, _ in policy.rows(groups, grpo.tokens_per_batch)]  # these are on the host
    tracker = Tracker()
    tracker.track_external(policy)
    with tracker:
        for row in sync_gradients(policy, iter(rows)):
            terms = LossTerms(
                advantages=torch.ones(len(row.labels), dtype=torch.long).float(),
                normalizer=1.0,
                config=loss_config(grpo.loss),
            )
            loss, _ = policy(row, terms, temperature=grpo.temperature)
            loss.backward()
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
    """float32 bytes of what FSDP gathers for a unit at once; 0 where it is none."""
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
