"""The snippets of docs/EMBEDDING.md run as they stand, and do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import commands
import pytest
import torch

from sectow_fast.kernels import linear_policy_loss

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "EMBEDDING.md"
RANKS = 2
# After the snippet, in its own names: what the rank was given, and the gradients it stepped by.
KEEP = """
whole = lambda g: g.full_tensor() if hasattr(g, "full_tensor") else g
torch.save(
    {
        "batch": [inputs, labels, advantages],
        "gradients": [whole(p.grad).clone() for p in policy.parameters()],
        "loss": loss.detach(),
    },
    f"rank{torch.distributed.get_rank()}.pt",
)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def snippets() -> dict[str, str]:
    """By what is said to import: each block of Python that is a program of its own."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    marks = {
        "plain": "optimizer.step()\n",
        "ddp": "DistributedDataParallel",
        "fsdp2": "fully_shard",
        "accelerate": "Accelerator",
    }
    found: dict[str, str] = {}
    for block in blocks:
        names = [name for name, mark in marks.items() if mark in block]
        if names:
            found[names[-1]] = block
    return found


def test_every_snippet_is_found():
    assert sorted(snippets()) == ["accelerate", "ddp", "fsdp2", "plain"]


def test_the_plain_loop_runs_and_trains():
    scope: dict = {}
    exec(compile(snippets()["plain"], str(PAGE), "exec"), scope)
    assert scope["loss"].isfinite()
    assert scope["head"].weight.grad.abs().sum() > 0
    assert scope["backbone"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "accelerate"])
def test_two_ranks_make_the_gradient_of_one(name, tmp_path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(snippets()[name] + KEEP)
    commands.run_ranks(snippet, cwd=tmp_path, environment={"ACCELERATE_USE_CPU": "true"})
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS)]
    torch.manual_seed(0)
    backbone, head = torch.nn.Linear(16, 16), torch.nn.Linear(16, 100, bias=False)
    inputs, labels, advantages = (
        torch.cat(each) for each in zip(*(rank["batch"] for rank in ranks), strict=True)
    )
    assert len(inputs) == 40 + 70
    loss, _ = linear_policy_loss(backbone(inputs), head.weight, labels, advantages)
    loss.backward()
    want = [p.grad for p in (*backbone.parameters(), *head.parameters())]
    for rank in ranks:
        for got, truth in zip(rank["gradients"], want, strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-7)
