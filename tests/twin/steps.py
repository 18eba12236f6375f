"""The steps that the driver measures, on tiny models of the real classes, bf16, checkpointing."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from families import MODELS, sample
from tensors import OPENED, card, to_card
from twin import LEDGER

from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.kernels import dispatch, head, linear_loss
from sectow_fast.learn import grpo
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.policy import Policy, make_policy
from sectow_fast.types import Group, Reward

OPENED[torch.ops.sectow.linear_policy_loss.default] = linear_loss.linear_policy_loss_op._init_fn
OPENED[torch.ops.sectow.linear_logprob.default] = head.linear_logprob_op._init_fn
OPENED[torch.ops.sectow.linear_logprob_backward.default] = head.linear_logprob_backward_op._init_fn

LEARN = LearnConfig(attention="sdpa", gradient_checkpointing=True, dtype="bfloat16")
REPEATS = 2  # of the sample's groups, so that a step has several micro-batches
GRPO = GRPOConfig(tokens_per_batch=64, mismatch_max=1e9)


def measured(name: str, fault: str) -> dict[str, Any]:
    """What each step of a family met, with one of `planted`'s errors or ""."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name]()
    made = sample(model)
    to_card(model)
    with card(), dispatch.plain(), planted(fault, model):
        policy = make_policy(model, made.codec, LEARN)
        optimizer = make_optimizer(policy, 1e-6, betas=(0.9, 0.95), weight_decay=0.0)
        groups = made.groups * REPEATS
        # A group of one completion has no signal and is dropped before the rows are made.
        live = [(prompt, done) for prompt, done in groups if len(done) > 1]
        rows = sum(1 for _ in policy.rows(live, GRPO.tokens_per_batch))
        return {"grpo": met(lambda them: grpo_step(policy, optimizer, them), groups, rows)}


def grpo_step(policy: Policy, optimizer: torch.optim.Optimizer, pairs: Any) -> dict[str, float]:
    groups = [
        Group(
            prompt=prompt,
            completions=tuple(done),
            rewards=tuple(Reward(total=float(j % 2)) for j in range(len(done))),
        )
        for prompt, done in pairs
    ]
    return grpo.grpo_step(policy, optimizer, groups, config=GRPO)


def met(step: Callable[[Any], dict[str, float]], groups: Any, rows: int) -> dict[str, Any]:
    """The ledger of one step. One of a single group goes before it, which makes the optimizer's
    state and what is kept for later steps."""
    try:
        step(groups[:1])
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
    """One error, as a careless change would bring it in."""
    decoder = model.get_decoder()
    kept: list[torch.Tensor] = []
    add = grpo.StepSums.add

    def on_the_cpu(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"position_ids": kwargs["position_ids"].cpu()}

    def often(module: Any, args: Any, output: Any) -> None:
        for _ in range(50):
            output.last_hidden_state.detach().mul(1.0)

    def keep(module: Any, args: Any, output: Any) -> None:
        kept.extend(output.last_hidden_state.detach().clone() for _ in range(50))

    def reads(self: Any, row: Any, loss: torch.Tensor, measured: Any) -> None:
        float(loss)
        add(self, row, loss, measured)

    if fault == "cpu_tensor":
        decoder.register_forward_pre_hook(on_the_cpu, with_kwargs=True)
    elif fault == "launches":
        decoder.register_forward_hook(often)
    elif fault == "memory":
        decoder.register_forward_hook(keep)
    with mock.patch.object(grpo.StepSums, "add", reads if fault == "item_per_row" else add):
        yield
