"""The snippets of docs/EMBEDDING.md and docs/HOSTS.md run as they stand, and do what is said."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

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


def host(name: str) -> dict:
    """What the snippet of docs/HOSTS.md below the heading of that name defines."""
    page = ROOT / "docs" / "HOSTS.md"
    section = page.read_text().split(f"\n## {name}")[1].split("\n## ")[0]
    scope: dict = {}
    exec(compile(section.split("```python\n")[1].split("```")[0], str(page), "exec"), scope)
    return scope


@pytest.mark.parametrize("name", ["prime-rl", "SkyRL and slime", "torchtitan"])
def test_a_hosts_lines_give_what_plain_torch_gives(name):
    torch.manual_seed(0)
    hidden, labels = torch.randn(2, 5, 8), torch.randint(0, 20, (2, 5))
    temperature = torch.ones(2, 5) if name == "torchtitan" else torch.rand(2, 5) + 0.5
    scope, found = host(name), []
    for ours in (True, False):
        states = hidden.clone().requires_grad_()
        torch.manual_seed(1)
        head = torch.nn.Linear(8, 20, bias=False)
        if not ours:
            scores = (head(states) / temperature[..., None]).log_softmax(-1)
            logp = scores.gather(-1, labels[..., None])[..., 0]
            entropy = -(scores.exp() * scores).sum(-1)
        elif name == "prime-rl":
            theirs = scope["FusedOutputLinear"](8, 20, 4)
            theirs.weight = head.weight
            logp, entropy = theirs(states, labels, temperature).values()
        elif name == "torchtitan":
            logp, entropy = scope["head_logprobs"](head, states.flatten(0, 1), labels.flatten())
            logp, entropy = logp.view(2, 5), entropy.view(2, 5)
        else:
            layer = SimpleNamespace(weight=head.weight, sequence_parallel=False, tp_group=None)
            context = {"labels": labels, "temperature": temperature.flatten()}
            logp, entropy = scope["output_processor"](
                hidden_states=states.transpose(0, 1), output_layer=layer, context=context
            )
        (logp * torch.linspace(-1, 2, 10).view(2, 5)).sum().backward()
        found.append([logp.detach(), entropy.detach(), states.grad, head.weight.grad])
    torch.testing.assert_close(*found)
