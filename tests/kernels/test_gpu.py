"""What only a CUDA card can show. `make gpu-check`."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import GRADIENTS, OPTIONS, head_case, in_dtype, within_twice

from sectow_fast.kernels import (
    PolicyLossConfig,
    group_advantage,
    linear_logprob,
    linear_policy_loss,
    logprob,
    loss_oracle,
    policy_loss,
    selective_logprob,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EPSILON = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def on_card(case: dict) -> dict:
    return {k: v.detach().cuda().requires_grad_(k in GRADIENTS) for k, v in case.items()}


def fused(function, case, config):
    value = function(**case, config=config, temperature=0.8)
    value = value[0] if isinstance(value, tuple) else value
    (3 * value).backward()
    return [value.detach(), *(case[name].grad for name in GRADIENTS)]


@pytest.mark.parametrize("dtype", list(EPSILON))
@pytest.mark.parametrize(("count", "vocabulary"), [(1, 1), (17, 7), (300, 1000), (33, 151_936)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_linear_policy_loss(options, count, vocabulary, dtype):
    config = PolicyLossConfig(**options)
    rounded = in_dtype(head_case(count, 64, vocabulary), dtype)
    exact = in_dtype({k: v.detach() for k, v in rounded.items()}, torch.float64)
    oracle = loss_oracle.linear_policy_loss_oracle
    ours = fused(linear_policy_loss, on_card(rounded), config)
    plain = fused(oracle, on_card(rounded), config)
    truth = fused(oracle, on_card(exact), config)
    within_twice(ours, plain, truth, EPSILON[dtype])


@pytest.mark.parametrize("dtype", list(EPSILON))
def test_selective_logprob_beyond_two_to_the_31_elements(dtype):
    rows, vocabulary = 14_200, 151_936
    logits = torch.empty(rows, vocabulary, dtype=dtype, device="cuda").normal_()
    labels = torch.randint(0, vocabulary, (rows,), device="cuda")
    logp, entropy = selective_logprob(logits, labels)
    last = slice(rows - 40, rows)
    wanted = logprob.selective_logprob_oracle(logits[last].double(), labels[last])
    for one, truth in zip((logp, entropy), wanted, strict=True):
        torch.testing.assert_close(one[last].double(), truth, atol=1e-4, rtol=1e-4)


def test_compiled_equals_eager():
    config = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)
    case = in_dtype(head_case(), torch.float32)
    found = [
        fused(one, on_card(case), config)
        for one in (linear_policy_loss, torch.compile(linear_policy_loss))
    ]
    torch.testing.assert_close(*found)


def test_captured_in_a_cuda_graph():
    case = on_card(in_dtype(head_case(), torch.float32))
    logits = torch.randn(17, 100, device="cuda")

    def step():
        loss, metrics = linear_policy_loss(**case, normalizer=11)
        rest = selective_logprob(logits, case["labels"])
        logp, _ = linear_logprob(case["hidden"], case["weight"], case["labels"])
        values, _ = group_advantage(case["advantages"], case["sequence_ids"])
        return [loss, metrics["logp"], *rest, logp, values, policy_loss(logp, values)[0]]

    with torch.no_grad():
        wanted = [one.clone() for one in step()]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
    live = [0, 2, 3, 4, 5, 6]  # captured, every row takes part, so more log-probs are known
    torch.testing.assert_close([found[i] for i in live], [wanted[i] for i in live])


def test_labels_out_of_range_are_nan_and_nothing_waits():
    logits = torch.randn(3, 7, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        labels = torch.arange(3, device="cuda") * 4
        logp, _ = selective_logprob(logits, labels)
        _, metrics = policy_loss(logp, torch.ones_like(logp).detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert logp.isnan().tolist() == [False, False, True] and metrics["live"] == 3
