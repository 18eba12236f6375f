"""The steps that the driver measures, on tiny models of the real classes, bf16, checkpointing."""

from __future__ import annotations

import copy
import gc
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from families import MODELS, sample
from tensors import OPENED, Twin, card, off_the_card, to_card
from twin import LEDGER

from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.engine.ranked_engine import RankedEngine
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.engine.weight_sync import buckets, checkpoint_weights, whole
from sectow_fast.kernels import dispatch, head_ops, linear_loss_op
from sectow_fast.learn import checkpoint, grpo
from sectow_fast.learn.attention_sdpa import attend
from sectow_fast.learn.optim import make_optimizer, moments_of, put_moments
from sectow_fast.learn.policy import Policy, make_policy
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.learn.selftest import check_packing
from sectow_fast.learn.sft import sft_step
from sectow_fast.learn.sharding import whole_weights
from sectow_fast.types import Group, Reward, Sampling

OPENED[torch.ops.sectow.linear_policy_loss.default] = linear_loss_op.linear_policy_loss_op._init_fn
OPENED[torch.ops.sectow.linear_logprob.default] = head_ops.linear_logprob_op._init_fn
OPENED[torch.ops.sectow.linear_logprob_backward.default] = (
    head_ops.linear_logprob_backward_op._init_fn
)

LEARN = LearnConfig(attention="sdpa", gradient_checkpointing=True, dtype="bfloat16")
REPEATS = 2  # of the sample's groups, so that a step has several micro-batches
GRPO = GRPOConfig(tokens_per_batch=64, mismatch_max=1e9, mismatch_token=None)


def joined(meet: Path | None, rank: int) -> Ranks:
    """One rank, or one of two that meet at a file. gloo sends what a card's NCCL would."""
    world = 1 if meet is None else 2
    store = dist.HashStore() if meet is None else dist.FileStore(str(meet), world)
    dist.init_process_group("cpu:gloo,cuda:gloo", store=store, rank=rank, world_size=world)
    return Ranks(rank=rank, world=world)


def measured(name: str, fault: str) -> dict[str, Any]:
    """What each step of a family met, with `planted`'s errors or ""."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name]()
    made = sample(model)
    drawn = copy.deepcopy(model)  # an engine's own weights, beside those that are sharded
    to_card(model)
    with card(), dispatch.plain(), planted(fault, model):
        policy = make_policy(model, made.codec, LEARN)
        optimizer = make_optimizer(policy, 1e-6, betas=(0.9, 0.95), weight_decay=0.0)
        groups = made.groups * REPEATS
        # A group of one completion has no signal and is dropped before the rows are made.
        live = [(prompt, done) for prompt, done in groups if len(done) > 1]
        rows = sum(1 for _ in policy.rows(live, GRPO.tokens_per_batch))
        # The optimizer's state and what is kept for later steps are made by a step before.
        grpo_step(policy, optimizer, groups[:1])
        out = {"grpo": met(lambda them: grpo_step(policy, optimizer, them), groups, rows)}
        if not fault:
            out |= rest(policy, optimizer, made.groups, drawn)
        return out


def rest(policy: Policy, optimizer: torch.optim.Optimizer, groups: Any, drawn: Any) -> Any:
    """What else touches tensors: each returns what the test compares."""
    model, codec = policy.model, policy.codec
    prompts = [prompt for prompt, _ in groups[:2]]
    singles = [(prompt, (one,)) for prompt, done in groups for one in done]
    rows = sum(1 for _ in policy.rows(singles, GRPO.tokens_per_batch))

    def sft(them: Any) -> dict[str, float]:
        pairs = [(prompt, one.ids) for prompt, done in them for one in done]
        return sft_step(policy, optimizer, pairs, tokens_per_batch=GRPO.tokens_per_batch)

    def selftest(_: Any) -> dict[str, float]:
        return {"difference": check_packing(policy, prompts, torch.bfloat16)}

    def push(_: Any) -> dict[str, float]:
        weights = checkpoint_weights(model)
        made = list(buckets(sorted(weights.items()), 1 << 14, policy.device))
        parts = {p.name: b.data[p.start : p.end] for b in made for p in b.pieces}
        same = [
            torch.equal(
                parts[name].cpu(), whole(one).cpu().contiguous().flatten().view(torch.uint8)
            )
            for name, one in weights.items()
        ]
        return {"buckets": len(made), "same": float(all(same)), "tensors": len(same)}

    def save_and_load(_: Any) -> dict[str, float]:
        tensors = {"model": model.state_dict(), "optimizer": moments_of(optimizer, policy)}
        kept = {name: whole(one).clone() for name, one in model.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            kept_by = checkpoint.Checkpoints(Path(folder))
            kept_by.save(tensors=tensors, state={"step": 1})
            kept_by.wait()
            for one in model.state_dict().values():
                one.zero_()
            saved = checkpoint.load(Path(folder))
            saved.fill("model", model.state_dict())
            put_moments(optimizer, policy, saved.moments(policy))
        read = {name: whole(one) for name, one in model.state_dict().items()}
        same = [torch.equal(kept[name].cpu(), one.cpu()) for name, one in read.items()]
        return {"same": float(all(same)), "tensors": len(same)}

    def generation(_: Any) -> dict[str, float]:
        engine = RankedEngine(TorchEngine(to_card(drawn), codec), ALONE, whole=whole_weights)
        engine.sync(model)
        done = engine.generate(prompts, n=2, sampling=Sampling(max_new_tokens=4), seed="0")
        return {"tokens": sum(len(one.ids) for row in done for one in row)}

    return {
        one.__name__: met(one, groups, rows)
        for one in (sft, selftest, push, save_and_load, generation)
    }


class Fused(torch.autograd.Function):
    """Attention as one kernel that keeps q, k, v and its output: the numbers are sdpa's, which are
    made beside the card."""

    @staticmethod
    def forward(ctx, query, key, value, attend):
        ctx.attend = attend
        with torch.no_grad(), off_the_card():
            out = Twin(attend(query.inner, key.inner, value.inner))
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx, upstream):
        *given, _ = ctx.saved_tensors
        with torch.enable_grad(), off_the_card():
            inner = [one.inner.detach().requires_grad_() for one in given]
            found = torch.autograd.grad(ctx.attend(*inner), inner, upstream.inner)
            return *map(Twin, found), None


def fused(query: Any, key: Any, value: Any, segments: Any, **how: Any) -> torch.Tensor:
    """A backend of learn/attention.py over twins."""
    return Fused.apply(query, key, value, lambda q, k, v: attend(q, k, v, segments, **how))


def grpo_step(
    policy: Policy, optimizer: torch.optim.Optimizer, pairs: Any, config: GRPOConfig = GRPO
) -> dict[str, float]:
    groups = [
        Group(
            prompt=prompt,
            completions=tuple(done),
            rewards=tuple(Reward(total=float(j % 2)) for j in range(len(done))),
        )
        for prompt, done in pairs
    ]
    return grpo.grpo_step(policy, optimizer, groups, config=config)


def met(step: Callable[[Any], dict[str, float]], groups: Any, rows: int) -> dict[str, Any]:
    """The ledger of one step."""
    try:
        gc.collect()
        LEDGER.restart()
        metrics = step(groups)
    except Exception:
        return {"error": traceback.format_exc(limit=-6)}
    return {
        "mismatches": dict(LEDGER.mismatches),
        "syncs": dict(LEDGER.syncs),
        "launches": sum(LEDGER.launches.values()),
        "peak": LEDGER.peak,
        "rows": rows,
        "metrics": metrics,
    }


@contextmanager
def planted(fault: str, model: Any) -> Iterator[None]:
    """Errors (names, by commas), as a careless change would bring them in."""
    decoder = model.get_decoder()
    kept: list[torch.Tensor] = []
    add = grpo.StepSums.add

    def on_the_cpu(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"position_ids": kwargs["position_ids"].cpu()}

    def often(module: Any, args: Any, output: Any) -> None:
        for _ in range(60):
            output.last_hidden_state.detach().mul(1.0)

    def keep(module: Any, args: Any, output: Any) -> None:
        kept.append(output.last_hidden_state.new_zeros(100_000))

    def reads(self: Any, row: Any, loss: torch.Tensor, *more: Any) -> None:
        float(loss)
        add(self, row, loss, *more)

    faults = fault.split(",")
    if "cpu_tensor" in faults:
        decoder.register_forward_pre_hook(on_the_cpu, with_kwargs=True)
    if "launches" in faults:
        decoder.register_forward_hook(often)
    if "memory" in faults:
        decoder.register_forward_hook(keep)
    with mock.patch.object(grpo.StepSums, "add", reads if "item_per_row" in faults else add):
        yield
