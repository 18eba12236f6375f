"""What breaks policy losses elsewhere, by both paths."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import GRADIENTS, head_case, in_dtype

from sectow_fast.kernels import (
    PolicyLossConfig,
    group_advantage,
    linear_policy_loss,
    loss_oracle,
    policy_loss,
    selective_logprob,
)

FULL = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)


def test_minus_infinity_logits_stay_finite_wherever_they_are(path):
    # A first block of nothing but -inf is where an online softmax meets exp(-inf + inf).
    logits = torch.randn(3, 9000)
    logits[0, :8200] = -torch.inf
    logits[1, 5] = -torch.inf
    logits.requires_grad_()
    logp, entropy = selective_logprob(logits, torch.tensor([8300, 4, 3]))
    (logp + entropy).sum().backward()
    assert logp.isfinite().all() and entropy.isfinite().all() and logits.grad.isfinite().all()
    left = torch.distributions.Categorical(logits=logits.detach()[0, 8200:])
    torch.testing.assert_close(entropy[0].detach(), left.entropy())


def test_logits_far_from_zero_keep_the_entropy(path):
    logits = 1e5 + torch.tensor([[0.0, 1.0, 2.0]])
    entropy = selective_logprob(logits, torch.tensor([0]))[1]
    wanted = torch.distributions.Categorical(logits=torch.tensor([[0.0, 1.0, 2.0]])).entropy()
    torch.testing.assert_close(entropy, wanted)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("column", [0, 8500])
def test_a_nan_logit_is_never_hidden(path, bad, column):
    logits = torch.randn(2, 9000)
    logits[1, column] = bad
    logits.requires_grad_()
    logp, entropy = selective_logprob(logits, torch.tensor([3, 3]))
    (logp + entropy).sum().backward()
    assert logp[1].isnan() and entropy[1].isnan() and logits.grad[1].isnan().any()
    assert logp[0].isfinite() and logits.grad[0].isfinite().all()


@pytest.mark.parametrize("config", [PolicyLossConfig(), FULL], ids=["plain", "full"])
def test_masked_rows_never_matter(path, config):
    case = in_dtype(head_case(), torch.float32)
    wanted = linear_policy_loss(**case, config=config)[0]
    wanted.backward()
    poisoned = {k: v.detach().clone() for k, v in case.items()}
    for name in ("hidden", "advantages", "old_logp", "ref_logp"):
        poisoned[name][~case["mask"]] = torch.nan
    poisoned["labels"][0] = 10**6
    again = {k: v.requires_grad_(k in GRADIENTS) for k, v in poisoned.items()}
    loss = linear_policy_loss(**again, config=config)[0]
    loss.backward()
    torch.testing.assert_close(loss, wanted)
    for name in GRADIENTS:
        torch.testing.assert_close(again[name].grad, case[name].grad)


@pytest.mark.parametrize("name", ["hidden", "advantages", "old_logp", "ref_logp", "rollout_logp"])
def test_a_live_nan_shows_in_loss_and_gradient(path, name):
    case = head_case()
    case[name][1] = torch.nan
    case = in_dtype(case, torch.float32)
    loss, _ = linear_policy_loss(**case, config=PolicyLossConfig(kl_coef=0.1, tis_cap=2.0))
    loss.backward()
    assert loss.isnan() and case["weight"].grad.isnan().any()


@pytest.mark.parametrize("gap", [100.0, -100.0])
@pytest.mark.parametrize("advantages", [1.0, 0.0, -1.0])
def test_a_huge_log_ratio_stays_finite(path, gap, advantages):
    logp = torch.tensor([gap - 1], requires_grad=True)
    given = torch.tensor([-1.0])
    loss, _ = policy_loss(
        logp, torch.tensor([advantages]), old_logp=given, ref_logp=given, rollout_logp=given,
        config=PolicyLossConfig(kl_coef=0.1, tis_cap=2.0),
    )  # fmt: skip
    loss.backward()
    assert loss.isfinite() and logp.grad.isfinite().all()


@pytest.mark.parametrize("edge", [0.8, 1.28])
def test_the_gradient_passes_at_the_very_edge_of_the_clip(path, edge):
    logp = torch.tensor([edge]).log().requires_grad_()
    ratio = logp.detach().exp()
    config = PolicyLossConfig(
        clip_low=1 - ratio.item() if edge < 1 else 0.2,
        clip_high=ratio.item() - 1 if edge > 1 else 0.28,
    )
    advantages = torch.tensor([1.0 if edge > 1 else -1.0])
    loss, _ = policy_loss(logp, advantages, old_logp=torch.zeros(1), config=config)
    loss.backward()
    torch.testing.assert_close(logp.grad, -advantages * ratio)


@pytest.mark.parametrize("config", [PolicyLossConfig(), FULL], ids=["plain", "full"])
def test_a_batch_without_a_live_row_gives_zero_and_connected_gradients(path, config):
    case = in_dtype(head_case(), torch.float32)
    case["mask"] = torch.zeros(17, dtype=torch.bool)
    loss, metrics = linear_policy_loss(**case, config=config)
    loss.backward()
    assert loss == 0 and metrics["live"] == 0 and not metrics["scored"].any()
    assert all((case[name].grad == 0).all() for name in GRADIENTS)
    logp = torch.randn(3, requires_grad=True)
    loss, metrics = policy_loss(logp, torch.ones(3), mask=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (logp.grad == 0).all() and metrics["ratio_max"].isfinite()


def test_rows_without_advantage_are_left_out_only_where_they_teach_nothing(path):
    case = in_dtype(head_case(), torch.float32)
    metrics = linear_policy_loss(**case)[1]
    live = case["mask"] & (case["labels"] != -100)
    assert (metrics["scored"] == (live & (case["advantages"] != 0))).all()
    assert (metrics["logp"][~metrics["scored"]] == 0).all()
    assert metrics["live"] == live.sum()
    assert (linear_policy_loss(**case, config=FULL)[1]["scored"] == live).all()


@pytest.mark.parametrize("reduction", ["token-mean", "seq-mean", "seq-sum"])
def test_sequences_without_advantage_are_left_out_with_sequence_ratios(path, reduction):
    """What the dead sequence holds never matters; what is reduced over still counts it."""
    case = in_dtype(head_case(), torch.float32)
    dead = (case["sequence_ids"] == 1).nonzero().flatten()
    case["advantages"][dead] = 0.0
    config = PolicyLossConfig(ratio="sequence", reduction=reduction, clip_low=0.01, clip_high=0.01)
    wanted = loss_oracle.linear_policy_loss_oracle(**case, config=config)
    spoiled = {name: tensor.detach().clone() for name, tensor in case.items()}
    spoiled["hidden"][dead] = torch.nan
    spoiled["hidden"].requires_grad_()
    loss, metrics = linear_policy_loss(**spoiled, config=config)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(spoiled["hidden"].grad, case["hidden"].grad)
    live = case["mask"] & (case["labels"] != -100)
    alive = live & (case["sequence_ids"] != 1)
    assert (metrics["scored"] == alive).all() and metrics["live"] == live.sum()
    whole = PolicyLossConfig(**{**vars(config), "entropy_coef": 1e-30})
    every = linear_policy_loss(**case, config=whole)[1]
    assert (every["scored"] == live).all()
    for share in ("clip_low", "clip_high"):
        torch.testing.assert_close(metrics[share], every[share])
    assert metrics["clip_low"] + metrics["clip_high"] > 0


def test_labels_out_of_range_are_refused_on_a_cpu_and_nan_in_the_kernels():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match=r"labels\[1\]: found 7, expected 0\.\.6 or -100"):
        selective_logprob(torch.randn(2, 7), torch.tensor([0, 7]))
    case = head_case()
    case["labels"][1] = 100
    with pytest.raises(ValueError, match=r"labels\[1\]: found 100"):
        linear_policy_loss(**case)
    if torch.cuda.is_available():
        return
    from kernel_cases import one_chunk
    from sectow_fast.kernels.head_form import HeadForm
    from sectow_fast.kernels.logprob_triton import selective_backward, selective_forward
    from sectow_fast.kernels.loss_batch import score_rows

    from sectow_fast.kernels import dispatch

    logits, labels, one = torch.randn(3, 7), torch.tensor([0, 7, -3]), torch.ones(3)
    form = HeadForm(whole=7)
    logp, entropy, top, total = selective_forward(logits, labels, form, ignore_index=-100)
    assert logp.isnan().tolist() == entropy.isnan().tolist() == [False, True, True]
    d_logits = selective_backward(
        **{"g_logp": one, "g_entropy": one, "logits": logits, "labels": labels, "form": form},
        **{"entropy": entropy, "top": top, "total": total, "ignore_index": -100},
        out=torch.empty_like(logits),
    )
    assert d_logits.isnan().any(1).tolist() == [False, True, True]
    batch, chunk = one_chunk(logits, labels)
    with dispatch.interpreted():
        score_rows(batch, chunk, logits)
    assert batch.results.loss.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("baseline", ["mean", "loo"])
@pytest.mark.parametrize("scale", ["std", "none", "batch"])
@pytest.mark.parametrize("size", [1, 5, 50, None])
def test_group_advantage_equals_a_loop(path, baseline, scale, size):
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(50, generator=generator)
    ids = torch.randint(1, 9, (50,), generator=generator)
    rewards[:3], ids[:3] = 0.1, 0  # a group of float noise without a signal
    given = {"group_ids": ids} if size is None else {"group_size": size}
    ids = ids if size is None else torch.arange(50) // size
    values, signal = group_advantage(rewards, **given, baseline=baseline, scale=scale)
    for group in ids.unique():
        mine = rewards[ids == group].double()
        n = len(mine)
        centred = (mine - mine.mean()) * (n / max(n - 1, 1) if baseline == "loo" else 1)
        spread = {"std": mine, "none": None, "batch": rewards.double()}[scale]
        wanted = (
            centred if spread is None else centred / (spread.std(correction=min(n - 1, 1)) + 1e-4)
        )
        wanted = wanted if mine.max() != mine.min() else 0 * mine
        torch.testing.assert_close(values[ids == group].double(), wanted, atol=1e-5, rtol=1e-5)
        assert (signal[ids == group] == (mine.max() != mine.min())).all()


def test_a_nan_reward_is_refused_on_a_cpu_and_spoils_its_group_in_the_kernel():
    with pytest.raises(ValueError, match=r"rewards\[1\]: found nan"):
        group_advantage(torch.tensor([0.0, torch.nan]), group_size=2)
    if torch.cuda.is_available():
        return
    pytest.importorskip("triton")
    from sectow_fast.kernels.advantage_triton import group_advantage_triton

    rewards = torch.tensor([0.0, torch.nan, 1.0, 0.0])
    values, signal = group_advantage_triton(
        rewards,
        None,
        group_size=2,
        baseline="mean",
        scale="std",
        ddof=1,
        eps=1e-4,
        batch_std=rewards,
    )
    assert values.isnan().tolist() == [True, True, False, False] and signal.all()
