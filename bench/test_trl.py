"""Our GRPO step beside TRL's, in one run: same weights, prompts, rewards and completion length.

With a quarter of the groups live (a usual share once a model has learned most of its prompts), both
get the same rewards; TRL trains on the dead groups too, with advantages of 0.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from ours import OurStep, grouped
from work import CONFIG, Work

from sectow_fast.learn.grpo import grpo_step
from sectow_fast.types import Completion


@pytest.fixture(scope="module")
def peer():
    """peer.py, which imports TRL."""
    for name in ("trl", "datasets", "accelerate"):
        pytest.importorskip(
            name, reason=f"{name} is not installed: pip install -c constraints.txt -e '.[bench]'"
        )
    return importlib.import_module("peer")


@pytest.mark.parametrize("live", [1.0, 0.25])
def test_both_make_the_same_update(stage, peer, tmp_path, live):
    """Trained on TRL's own completions, our gradients (clipped, as the optimizer sees them) are
    TRL's: the two steps that are timed are one and the same update."""
    work = Work(stage=stage, live=live)
    model = stage.defender()
    trainer, between = peer.make_trainer(work, stage.defender(), tmp_path, lambda _: None, steps=1)
    trainer.train()
    batch = trainer.batch
    ours = OurStep(work, model)
    seen = zip(batch["prompt_ids"], batch["prompt_mask"].bool(), strict=True)
    prompts = [tuple(ids[mask].tolist()) for ids, mask in seen]
    assert prompts == [p.ids for p in ours.prompts for _ in range(work.group_size)]

    replies = [
        # TRL gives no log-probs of them, so the mismatch gate is off.
        Completion(ids=tuple(ids), logprobs=(0.0,) * len(ids), finish_reason="length")
        for ids in batch["completion_ids"].tolist()
    ]
    size = work.group_size
    rows = [replies[at : at + size] for at in range(0, len(replies), size)]
    # TRL scores under the whole vocabulary, tokens that are never sampled included.
    ours.codec.banned_ids = ()
    found: dict[str, torch.Tensor] = {}
    ours.optimizer.register_step_pre_hook(
        lambda *_: found.update(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    )
    grpo_step(
        ours.policy,
        ours.optimizer,
        grouped(work, ours.prompts, rows),
        config=CONFIG.model_copy(update={"mismatch_max": 1e3, "mismatch_token": None}),
    )
    assert sum(float(one.square().sum()) for one in found.values()) > 0.01
    assert found.keys() == between.gradients.keys()
    for name, theirs in between.gradients.items():
        torch.testing.assert_close(found[name], theirs, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("live", [1.0, 0.25])
@pytest.mark.parametrize(("prompts", "steps"), [(48, 10), (8, 30)])
def test_step_beside_trl(stage, peer, rows, tmp_path, prompts, steps, live):
    from pair import run_pair

    rows.append(run_pair(Work(stage=stage, prompts=prompts, live=live), tmp_path, steps=steps))
