"""The policy loss as each contender computes it: forward and backward, on the same inputs.

Each is a function of `Scene`. A contender that is not installed is listed as absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sectow_fast.kernels import PolicyLossConfig, linear_logprob, linear_policy_loss, policy_loss

LOW, HIGH = 0.2, 0.28


@dataclass
class Scene:
    """hidden [N, H] and weight [V, H], which need gradients; mask says which rows count."""

    hidden: torch.Tensor
    weight: torch.Tensor
    labels: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def make(cls, n: int, h: int, v: int, dtype, device: str, dead: str) -> Scene:
        """dead: "none", "masked" (half of the rows) or "zero" (half of the advantages)."""
        generator = torch.Generator(device).manual_seed(0)
        options = {"device": device, "generator": generator}
        hidden = torch.randn(n, h, **options).to(dtype).requires_grad_()
        weight = (torch.randn(v, h, **options) * h**-0.5).to(dtype).requires_grad_()
        labels = torch.randint(0, v, (n,), **options)
        advantages = torch.randn(n, **options)
        half = torch.arange(n, device=device) % 2 == 0
        if dead == "zero":
            advantages = advantages.where(half, 0.0)
        mask = half if dead == "masked" else torch.ones_like(half)
        return cls(hidden, weight, labels, advantages, mask)

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None


def _clipped(logp: torch.Tensor, s: Scene) -> torch.Tensor:
    ratio = (logp - logp.detach()).exp()
    advantages = s.advantages
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - LOW, 1 + HIGH) * advantages)
    return (loss * s.mask).sum() / s.mask.sum()


def ours(s: Scene) -> None:
    linear_policy_loss(s.hidden, s.weight, s.labels, s.advantages, mask=s.mask)[0].backward()


def ours_logprob(s: Scene) -> None:
    """`linear_logprob` and `policy_loss`, as a trainer that keeps its own loss function would call
    them."""
    labels = s.labels.where(s.mask, -100)
    logp, _ = linear_logprob(s.hidden, s.weight, labels)
    policy_loss(logp, s.advantages, mask=s.mask, config=PolicyLossConfig())[0].backward()


def _eager(hidden, weight, labels) -> torch.Tensor:
    logits = (hidden @ weight.T).float()
    return logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]


def eager(s: Scene) -> None:
    _clipped(_eager(s.hidden, s.weight, s.labels), s).backward()


def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """By Inductor on CUDA. On a CPU, where it is not timed, the function itself."""
    return torch.compile(function) if torch.cuda.is_available() else function


def make_compiled() -> Callable[[Scene], None]:
    function = compiled(_eager)
    return lambda s: _clipped(function(s.hidden, s.weight, s.labels), s).backward()


def make_trl() -> Callable[[Scene], None]:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    def run(s: Scene) -> None:
        logp = ChunkedLogProbFunction.apply(
            s.hidden, s.weight, None, s.labels, 1.0, 8192, None, 1.0, ("entropy",)
        )[0]
        _clipped(logp, s).backward()

    return run


def make_liger(tf32: bool = False) -> Callable[[Scene], None]:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    module = LigerFusedLinearGRPOLoss(
        beta=0.0, compiled=False, use_ref_model=False, epsilon_low=LOW, epsilon_high=HIGH
    )
    rows = 512  # its unit is a sequence

    def run(s: Scene) -> None:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        n = len(s.labels) // rows
        advantages = s.advantages.view(n, rows)
        loss = module(
            s.hidden.view(n, rows, -1),
            s.weight,
            s.labels.view(n, rows),
            s.mask.view(n, rows).long(),
            advantages,
        )
        torch.backends.cuda.matmul.allow_tf32 = False
        (loss[0] if isinstance(loss, tuple) else loss).backward()

    return run


def make_verl() -> Callable[[Scene], None]:
    if not torch.cuda.is_available():
        raise ImportError("verl's linear cross entropy is for CUDA")
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    def run(s: Scene) -> None:
        logp, _ = linear_cross_entropy(s.hidden, s.weight, s.labels, 1.0, "none", None)
        _clipped(logp, s).backward()

    return run


def make_cce() -> Callable[[Scene], None]:
    """Its gradient leaves out small probabilities (filter_eps), as it does by default."""
    from cut_cross_entropy import linear_cross_entropy

    def run(s: Scene) -> None:
        loss = linear_cross_entropy(s.hidden, s.weight, s.labels, reduction="none")
        _clipped(-loss, s).backward()

    return run


@torch.no_grad()
def floor(s: Scene) -> None:
    """Three products over the live rows, in chunks, and nothing else."""
    live = s.mask & (s.advantages != 0)
    for rows in live.nonzero()[:, 0].split(4096):
        states = s.hidden[rows]
        logits = states @ s.weight.T
        _ = logits @ s.weight
        _ = logits.T @ states


CONTENDERS: dict[str, Callable[[], Callable[[Scene], None]]] = {
    "floor: three products": lambda: floor,
    "linear_policy_loss": lambda: ours,
    "linear_logprob + policy_loss": lambda: ours_logprob,
    "torch eager": lambda: eager,
    "torch.compile": make_compiled,
    "TRL chunked log-prob": make_trl,
    "Liger fused-linear GRPO": make_liger,
    "Liger fused-linear GRPO, TF32": lambda: make_liger(tf32=True),
    "verl linear cross entropy": make_verl,
    "cut-cross-entropy": make_cce,
}
