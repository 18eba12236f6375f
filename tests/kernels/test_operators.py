"""Each operator as torch sees it (opcheck, gradcheck, compile), and what bad arguments get."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import GRADIENTS, OPTIONS, head_case, in_dtype, operator_calls

from sectow_fast.kernels import (
    PolicyLossConfig,
    group_advantage,
    linear_logprob,
    linear_policy_loss,
    loss_oracle,
    policy_loss,
    selective_logprob,
)


def test_opcheck(path):
    # What is traced does not depend on the path, and the interpreter is slow.
    tests = {} if path == "plain" else {"test_utils": "test_schema"}
    for operator, given, named in operator_calls("cpu"):
        torch.library.opcheck(operator, given, named, **tests)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck_of_the_oracle_and_of_ours(options):
    config = PolicyLossConfig(**options)
    case = head_case(9, 3, 6)
    fixed = {k: v for k, v in case.items() if k not in GRADIENTS}
    leaves = tuple(case[name].requires_grad_() for name in GRADIENTS)
    if config.ratio == "cispo":
        pytest.skip("its ratio is a constant to autograd, and not to finite differences")

    def ours(hidden, weight, bias):
        return linear_policy_loss(hidden, weight, bias=bias, config=config, **fixed)[0]

    def oracle(hidden, weight, bias):
        return loss_oracle.linear_policy_loss_oracle(
            hidden, weight, bias=bias, config=config, **fixed
        )

    if config.tis_cap is None:
        assert torch.autograd.gradcheck(oracle, leaves)
        assert torch.autograd.gradcheck(ours, leaves)
    a = torch.autograd.grad(ours(*leaves), leaves)
    torch.testing.assert_close(a, torch.autograd.grad(oracle(*leaves), leaves))


def test_compiled_without_a_break_equals_eager():
    case = in_dtype(head_case(), torch.float32)
    config = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)

    def step(case):
        loss, metrics = linear_policy_loss(**case, config=config, normalizer=9)
        logp, entropy = linear_logprob(case["hidden"], case["weight"], case["labels"])
        again, _ = policy_loss(logp, case["advantages"], entropy=entropy, mask=case["mask"])
        values, signal = group_advantage(case["advantages"], case["sequence_ids"])
        picked = selective_logprob(case["hidden"] @ case["weight"].T, case["labels"])[0]
        total = loss + again + (values * signal * picked).sum()
        return total, metrics["kl"]

    found = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        total, kl = function(case)
        total.backward()
        found.append([total.detach(), kl, *(case[name].grad.clone() for name in GRADIENTS)])
        for name in GRADIENTS:
            case[name].grad = None
    torch.testing.assert_close(*found)


def test_metrics_and_tokens_need_no_second_look():
    """Compiled without a graph break means no `.item()` in ours; metrics carry no gradient."""
    case = in_dtype(head_case(), torch.float32)
    metrics = linear_policy_loss(**case)[1]
    assert all(isinstance(v, torch.Tensor) and not v.requires_grad for v in metrics.values())


BAD = [
    ("hidden", lambda c: c["hidden"][0], r"hidden: found \(8,\)"),
    ("hidden", lambda c: c["hidden"].long(), r"hidden: found torch.int64"),
    ("hidden", lambda c: c["hidden"].to("meta"), r"weight: found device cpu, expected meta"),
    ("weight", lambda c: c["weight"][:, 1:], r"weight: found shape \(100, 7\), expected"),
    ("weight", lambda c: c["weight"].half(), r"weight: found torch.float16, expected hidden's"),
    ("weight", lambda c: c["weight"][:0], r"weight: found an empty vocabulary"),
    ("bias", lambda c: c["bias"][1:], r"bias: found shape \(99,\), expected \(100,\)"),
    ("labels", lambda c: c["labels"].float(), r"labels: found torch.float32, expected int64"),
    ("labels", lambda c: c["labels"][1:], r"labels: found shape \(16,\), expected \(17,\)"),
    ("advantages", lambda c: c["advantages"][:, None], r"advantages: found shape \(17, 1\)"),
    ("advantages", lambda c: None, r"advantages: found None"),
    (
        "advantages",
        lambda c: c["advantages"].clone().requires_grad_(),
        r"advantages: found requires_grad=True, expected a constant",
    ),
    ("old_logp", lambda c: c["old_logp"].clone().requires_grad_(), r"old_logp: found requires_gr"),
    ("mask", lambda c: c["mask"].float(), r"mask: found torch.float32, expected bool"),
    ("sequence_ids", lambda c: c["sequence_ids"].float(), r"sequence_ids: found torch.float32"),
    ("normalizer", lambda c: torch.ones(2), r"normalizer: found shape \(2,\)"),
    ("normalizer", lambda c: 0.0, r"normalizer: found 0.0, expected a finite number > 0"),
    ("temperature", lambda c: 0.0, r"temperature: found 0.0, expected a finite number > 0"),
    ("softcap", lambda c: -1.0, r"softcap: found -1.0"),
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("name", "wrong", "message"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)]
)
def test_bad_arguments_are_named(name, wrong, message, compiled):
    case = head_case()
    case[name] = wrong(case)
    function = linear_policy_loss
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(function, backend="eager")
    with pytest.raises(ValueError, match=message):
        function(**case)


def test_bad_arguments_of_the_others():
    with pytest.raises(ValueError, match="chunk: found 0"):
        linear_logprob(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1).long(), chunk=0)
    with pytest.raises(ValueError, match="mode: found 'fast', expected one of recompute"):
        linear_logprob(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1).long(), mode="fast")
    with pytest.raises(ValueError, match="mode: found 'frozen'"):
        weight = torch.ones(1, 1, requires_grad=True)
        linear_logprob(torch.ones(1, 1), weight, torch.zeros(1).long(), mode="frozen")
    with pytest.raises(ValueError, match="baseline: found 'median'"):
        group_advantage(torch.ones(2), group_size=2, baseline="median")
    with pytest.raises(ValueError, match=r"group_ids\[1\]: found -1"):
        group_advantage(torch.ones(2), torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"group_ids: found shape \(3,\), expected \(2,\)"):
        group_advantage(torch.ones(2), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="rewards: found requires_grad"):
        group_advantage(torch.ones(2, requires_grad=True), group_size=2)
    with pytest.raises(ValueError, match="ratio: found 'gspo', expected one of token, sequence"):
        PolicyLossConfig(ratio="gspo")
    with pytest.raises(ValueError, match="scale: found None, expected one of"):
        group_advantage(torch.ones(2), group_size=2, scale=None)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_any_layout_gives_the_same(path, layout):
    logits, labels = torch.randn(6, 40), torch.arange(6)
    if layout == "transposed":
        given = logits.T.contiguous().T
    elif layout == "strided":
        given = torch.stack([logits, logits], -1)[..., 0]
    else:
        given, logits = logits[:1].expand(6, 40), logits[:1].repeat(6, 1)
    given, logits = given.detach().requires_grad_(), logits.clone().requires_grad_()
    results = [torch.stack(selective_logprob(one, labels)) for one in (given, logits)]
    torch.testing.assert_close(*results)
    for one in results:
        one.sum().backward()
    torch.testing.assert_close(given.grad, logits.grad)


def test_a_failed_launch_raises_and_falls_back_to_nothing(monkeypatch):
    pytest.importorskip("triton")
    from sectow_fast.kernels import dispatch, logprob_triton

    def broken(*_, **__):
        raise RuntimeError("launch failed")

    monkeypatch.setattr(dispatch, "_interpreting", True)
    monkeypatch.setattr(logprob_triton, "selective_forward", broken)
    with pytest.raises(RuntimeError, match="launch failed"):
        selective_logprob(torch.randn(2, 3), torch.tensor([0, 1]))
