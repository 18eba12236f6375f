"""How a loss from outside the package is held to autograd and to its own Triton form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sectow_fast.kernels import (
    PolicyLossConfig,
    dispatch,
    linear_policy_loss,
    loss_oracle,
    loss_registry,
    policy_loss,
)


@contextmanager
def registry_as_before() -> Iterator[None]:
    """What is registered inside is forgotten again, so that tests do not see each other's."""
    tables = loss_registry._policy_losses, loss_registry._kl_estimates
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)


def tokens(count: int = 23, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Ratios and KLs on both sides of every edge; a mask; advantages of both signs."""
    generator = torch.Generator().manual_seed(0)
    logp, old, ref, advantages = torch.randn(4, count, generator=generator, dtype=torch.float64)
    return {
        "logp": logp.to(dtype, copy=True).requires_grad_(),
        "advantages": advantages.to(dtype),
        "old_logp": (logp + 0.7 * old).to(dtype),
        "ref_logp": (logp + 1.5 * ref).to(dtype),
        "mask": torch.arange(count) % 5 != 0,
    }


def head(count: int = 17, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The same for `linear_policy_loss`: hidden [N, 6], weight [30, 6]."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 30, (count,), generator=generator)
    logp = (states @ weight.T).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    given = tokens(count)
    leaves = {"hidden": states.to(dtype), "weight": weight.to(dtype)}
    return {
        **{name: one.requires_grad_() for name, one in leaves.items()},
        "labels": labels,
        "advantages": given["advantages"].to(dtype),
        "old_logp": (logp + given["old_logp"] - given["logp"].detach()).to(dtype),
        "ref_logp": (logp + given["ref_logp"] - given["logp"].detach()).to(dtype),
        "mask": given["mask"],
    }


def results(function, case: dict, config: PolicyLossConfig) -> list[torch.Tensor]:
    """The loss and every gradient of it."""
    value = function(**case, config=config)
    loss = value[0] if isinstance(value, tuple) else value
    leaves = [one for one in case.values() if one.requires_grad]
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


def agrees_with_autograd(config: PolicyLossConfig) -> None:
    """In float64, from log-probs and from hidden states."""
    for ours, oracle, case in (
        (policy_loss, loss_oracle.policy_loss_oracle, tokens()),
        (linear_policy_loss, loss_oracle.linear_policy_loss_oracle, head()),
    ):
        found, wanted = results(ours, case, config), results(oracle, case, config)
        torch.testing.assert_close(found, wanted)
        assert all(one.abs().max() > 0 for one in wanted)


def triton_agrees_with_torch(config: PolicyLossConfig) -> None:
    """In float32, under Triton's interpreter."""
    for ours, case in (
        (policy_loss, tokens(dtype=torch.float32)),
        (linear_policy_loss, head(dtype=torch.float32)),
    ):
        wanted = results(ours, case, config)
        with dispatch.interpreted():
            found = results(ours, case, config)
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-5)
