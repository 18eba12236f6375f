"""What must not change anything: the cut into chunks, the batch around a row, the order of rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import GRADIENTS, head_case, in_dtype

from sectow_fast.kernels import (
    PolicyLossConfig,
    dispatch,
    group_advantage,
    linear_logprob,
    linear_policy_loss,
    loss_oracle,
    selective_logprob,
)

CONFIG = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)


def run(case, **more):
    case = {k: v.detach().clone().requires_grad_(k in GRADIENTS) for k, v in case.items()}
    loss, metrics = linear_policy_loss(**case, config=CONFIG, **more)
    loss.backward()
    return [loss.detach(), metrics["logp"], *(case[name].grad for name in GRADIENTS)]


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_the_cut_into_chunks_changes_nothing(path, monkeypatch, rows):
    case = in_dtype(head_case(), torch.float32)
    wanted = run(case)
    monkeypatch.setattr(dispatch, "CPU_ELEMENTS", 100 * rows)
    monkeypatch.setattr(dispatch, "CPU_ROWS", 1)
    torch.testing.assert_close(run(case), wanted)
    logp = linear_logprob(case["hidden"], case["weight"], case["labels"], chunk=rows)[0]
    whole = linear_logprob(case["hidden"], case["weight"], case["labels"])[0]
    torch.testing.assert_close(logp, whole)


def test_a_rows_result_does_not_depend_on_the_batch_around_it(path):
    logits, labels = torch.randn(9, 300), torch.arange(9)
    together = selective_logprob(logits, labels)
    for i in range(9):
        alone = selective_logprob(logits[i : i + 1], labels[i : i + 1])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


def test_the_order_of_rows_changes_nothing(path):
    case = in_dtype(head_case(), torch.float32)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    mixed = {k: v if k in ("weight", "bias") else v[order] for k, v in case.items()}
    wanted, found = run(case), run(mixed)
    torch.testing.assert_close(found[1], wanted[1][order])
    torch.testing.assert_close(found[2], wanted[2][order])
    torch.testing.assert_close([found[0], *found[3:]], [wanted[0], *wanted[3:]])


def test_micro_batches_with_a_global_normalizer_add_up(path):
    case = in_dtype(head_case(), torch.float32)
    whole = run(case, normalizer=11)
    parts = []
    for cut in (slice(0, 6), slice(6, 17)):
        piece = {k: v if k in ("weight", "bias") else v[cut] for k, v in case.items()}
        parts.append(run(piece, normalizer=torch.tensor(11.0)))
    for i in (0, 3, 4):
        torch.testing.assert_close(parts[0][i] + parts[1][i], whole[i])


def test_backward_again_with_retain_graph_gives_the_same():
    case = in_dtype(head_case(), torch.float32)
    loss, _ = linear_policy_loss(**case, config=CONFIG)
    (5 * loss).backward(retain_graph=True)
    first = [case[name].grad.clone() for name in GRADIENTS]
    for name in GRADIENTS:
        case[name].grad = None
    (5 * loss).backward()
    torch.testing.assert_close([case[name].grad for name in GRADIENTS], first)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 12),
    vocabulary=st.integers(1, 30),
    seed=st.integers(0, 2**16),
    ratio=st.sampled_from(["token", "sequence", "cispo"]),
    reduction=st.sampled_from(["token-mean", "seq-mean", "seq-sum"]),
    dual=st.sampled_from([None, 1.5]),
    kl=st.sampled_from(["k1", "k2", "k3"]),
    coefficients=st.tuples(st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.1])),
)
def test_any_configuration_equals_the_oracle(
    count, vocabulary, seed, ratio, reduction, dual, kl, coefficients
):
    config = PolicyLossConfig(
        **{"ratio": ratio, "reduction": reduction, "dual_clip": dual, "kl": kl},
        **{"kl_coef": coefficients[0], "entropy_coef": coefficients[1], "tis_cap": 1.5},
    )
    case = in_dtype(head_case(count, 3, vocabulary, seed), torch.float64)
    again = {k: v.detach().clone().requires_grad_(k in GRADIENTS) for k, v in case.items()}
    ours = linear_policy_loss(**case, config=config)[0]
    wanted = loss_oracle.linear_policy_loss_oracle(**again, config=config)
    torch.testing.assert_close(ours, wanted)
    (2 * ours).backward()
    (2 * wanted).backward()
    for name in GRADIENTS:
        torch.testing.assert_close(case[name].grad, again[name].grad)


@settings(max_examples=40, deadline=None)
@given(
    rewards=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=40),
    groups=st.integers(1, 6),
    shift=st.sampled_from([0.0, 3.0]),
)
def test_advantages_sum_to_nothing_and_ignore_a_shift(rewards, groups, shift):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    ids = torch.arange(len(rewards)) % groups
    values, signal = group_advantage(rewards, ids)
    sums = torch.zeros(groups, dtype=torch.float64).index_add_(0, ids, values)
    torch.testing.assert_close(sums, torch.zeros_like(sums))
    assert (values[~signal] == 0).all()
    torch.testing.assert_close(group_advantage(rewards + shift, ids)[0], values)
