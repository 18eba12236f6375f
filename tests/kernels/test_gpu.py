"""What only a CUDA card can show. `make gpu-check`."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import (
    GRADIENTS,
    OPTIONS,
    head_case,
    in_dtype,
    operator_calls,
    within_twice,
)

from sectow_fast.kernels import (
    PolicyLossConfig,
    dispatch,
    group_advantage,
    head,
    head_chunks,
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
    check_linear_policy_loss(PolicyLossConfig(**options), head_case(count, 64, vocabulary), dtype)


@pytest.mark.parametrize("dtype", list(EPSILON))
@pytest.mark.parametrize("count", [4096, 4097, 9000])
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4], OPTIONS[10]], ids=str)
def test_rows_of_more_than_one_chunk(options, count, dtype):
    """A chunk is 4,096 live rows, and dW is added up over chunks. Without a mask all are live but
    one label; the mask of `head_case` leaves out one in five."""
    assert dispatch.CUDA_ROWS == 4096
    for mask in (True, False):
        case = head_case(count, 64, 1000)
        case["mask"] = case["mask"] if mask else torch.ones_like(case["mask"])
        check_linear_policy_loss(PolicyLossConfig(**options), case, dtype)


@pytest.mark.parametrize("dtype", list(EPSILON))
@pytest.mark.parametrize("count", [4097, 9000])
def test_linear_logprob_of_more_than_one_chunk(count, dtype):
    rounded = in_dtype(head_case(count, 64, 1000), dtype)
    exact = in_dtype({k: v.detach() for k, v in rounded.items()}, torch.float64)
    found = []
    for function, case in (
        (linear_logprob, rounded),
        (head.linear_logprob_oracle, rounded),
        (head.linear_logprob_oracle, exact),
    ):
        case = on_card(case)
        logp, entropy = function(*(case[name] for name in ("hidden", "weight", "labels")))
        (logp * case["advantages"].to(logp) + entropy).sum().backward()
        found.append([logp.detach(), entropy.detach(), case["hidden"].grad, case["weight"].grad])
    within_twice(*found, EPSILON[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_are_added_up_in_float32(dtype):
    """`addmm` with a float32 result and beta 1, onto a sum that is not empty."""
    d_logits, states = (torch.randn(4097, size, device="cuda").to(dtype) for size in (1003, 64))
    total = torch.randn(1003, 64, device="cuda")
    wanted = total.double() + d_logits.double().T @ states.double()
    head_chunks.add_product(total, d_logits, states)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), wanted, atol=1e-3, rtol=1e-4)


def test_opcheck():
    for operator, given, named in operator_calls("cuda"):
        torch.library.opcheck(operator, given, named)


def check_linear_policy_loss(config, case, dtype):
    rounded = in_dtype(case, dtype)
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


def test_every_function_compiled_equals_eager():
    case = on_card(in_dtype(head_case(), torch.float32))
    logits = torch.randn(17, 100, device="cuda")
    labels, advantages, ids = case["labels"], case["advantages"], case["sequence_ids"]
    for function, given in (
        (selective_logprob, (logits, labels)),
        (linear_logprob, (case["hidden"], case["weight"], labels)),
        (policy_loss, (case["old_logp"], advantages)),
        (group_advantage, (advantages, ids)),
    ):
        torch.testing.assert_close(torch.compile(function)(*given), function(*given))


def test_captured_in_a_cuda_graph():
    case = on_card(in_dtype(head_case(), torch.float32))
    logits = torch.randn(17, 100, device="cuda")

    def step():
        loss, metrics = linear_policy_loss(**case, normalizer=11)
        rest = selective_logprob(logits, case["labels"])
        logp, _ = linear_logprob(case["hidden"], case["weight"], case["labels"])
        values, _ = group_advantage(case["advantages"], case["sequence_ids"])
        bounded = linear_policy_loss(**case, normalizer=11, live_rows=13)[0]
        return [loss, metrics["logp"], *rest, logp, values, policy_loss(logp, values)[0], bounded]

    with torch.no_grad():
        wanted = [one.clone() for one in step()]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
    torch.testing.assert_close(wanted[7], wanted[0])
    live = [0, 2, 3, 4, 5, 6, 7]  # captured, every row takes part, so more log-probs are known
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


def test_quacks_log_probs_are_ours():
    pytest.importorskip("quack.linear_cross_entropy")
    case = in_dtype(head_case(300, 64, 1024), torch.bfloat16)
    exact = in_dtype({k: v.detach() for k, v in case.items()}, torch.float64)
    found = []
    for function, made, more in (
        (linear_logprob, on_card(case), {"backend": "quack"}),
        (linear_logprob, on_card(case), {}),
        (head.linear_logprob_oracle, on_card(exact), {}),
    ):
        given = {name: made[name] for name in ("hidden", "weight", "labels")}
        logp, _ = function(**given, **more)
        (logp * made["advantages"].to(logp)).sum().backward()
        found.append([logp.detach(), made["hidden"].grad, made["weight"].grad])
    within_twice(*found, EPSILON[torch.bfloat16])
