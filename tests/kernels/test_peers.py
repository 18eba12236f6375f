"""The same numbers as the peers' own code, on a CPU."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import head_case, in_dtype

from sectow_fast.kernels import PolicyLossConfig, linear_logprob, linear_policy_loss


def test_linear_logprob_is_trls():
    pytest.importorskip("trl")
    from trl.kernels import ChunkedLogProbFunction

    case = head_case()
    names = ("hidden", "weight", "bias")
    labels = case["labels"].clamp(min=0)
    upstream = torch.randn(2, 17)
    found = []
    for ours in (True, False):
        hidden, weight, bias = (case[n].float().requires_grad_() for n in names)
        if ours:
            both = linear_logprob(hidden, weight, labels, bias=bias, temperature=0.8, softcap=3.0)
        else:
            both = ChunkedLogProbFunction.apply(
                hidden, weight, bias, labels, 0.8, 32, 3.0, 1.0, ("entropy",)
            )[:2]
        (torch.stack(both) * upstream).sum().backward()
        found.append([torch.stack(both).detach(), hidden.grad, weight.grad, bias.grad])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "reduction"), [("dapo", "token-mean"), ("bnpo", "token-mean"), ("grpo", "seq-mean")]
)
def test_linear_policy_loss_is_ligers(theirs, reduction):
    pytest.importorskip("liger_kernel")
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    case = in_dtype(head_case(16, 8, 100), torch.float32)
    case["labels"] = case["labels"].clamp(min=0)
    case["advantages"] = case["advantages"][::4].repeat_interleave(4)
    del case["rollout_logp"], case["bias"]
    peer = {k: v.detach().clone() for k, v in case.items()}
    config = PolicyLossConfig(kl_coef=0.04, reduction=reduction)
    loss, _ = linear_policy_loss(**case, config=config)
    loss.backward()
    module = LigerFusedLinearGRPOLoss(
        beta=0.04, compiled=False, use_ref_model=True, epsilon_low=0.2, epsilon_high=0.28,
        loss_type=theirs,
    )  # fmt: skip
    hidden, weight = peer["hidden"].requires_grad_(), peer["weight"].requires_grad_()
    wanted = module(
        hidden.view(4, 4, 8),
        weight,
        peer["labels"].view(4, 4),
        peer["mask"].view(4, 4).long(),
        peer["advantages"].view(4, 4)[:, 0],
        ref_per_token_logps=peer["ref_logp"].view(4, 4),
        old_per_token_logps=peer["old_logp"].view(4, 4),
    )[0]
    wanted.backward()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(case["hidden"].grad, hidden.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(case["weight"].grad, weight.grad, atol=1e-5, rtol=1e-4)
