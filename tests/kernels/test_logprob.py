from __future__ import annotations

import pytest
import torch

from sectow_fast.kernels import linear_logprob, selective_logprob


def case(n=6, h=5, v=11):
    torch.manual_seed(n)
    hidden = torch.randn(n, h, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(v, h, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(v, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, v, (n,))
    return hidden, weight, bias, labels


@pytest.mark.parametrize("chunk", [1, 4, 4096])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_every_gradient_of_both_results(chunk, softcap):
    hidden, weight, bias, labels = case()
    labels[1] = -100

    def both(h, w, b):
        return linear_logprob(h, w, labels, bias=b, temperature=0.7, softcap=softcap, chunk=chunk)

    assert torch.autograd.gradcheck(both, (hidden, weight, bias))


def test_is_log_softmax_and_its_entropy():
    hidden, weight, bias, labels = case(17)
    logp, entropy = linear_logprob(hidden, weight, labels, bias=bias, temperature=1.3, chunk=5)
    full = torch.log_softmax((hidden @ weight.T + bias) / 1.3, -1)
    torch.testing.assert_close(logp, full[torch.arange(17), labels])
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1))
    again = selective_logprob(hidden @ weight.T + bias, labels, temperature=1.3)
    torch.testing.assert_close(again, (logp, entropy))


def test_minus_infinity_logits_keep_entropy_and_gradients_finite():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    logp, entropy = selective_logprob(logits, torch.tensor([1]))
    (logp + entropy).sum().backward()
    assert entropy.isfinite().all() and logits.grad.isfinite().all()
    torch.testing.assert_close(
        entropy, torch.distributions.Categorical(logits=torch.tensor([[0.0, 1.0]])).entropy()
    )


def test_an_ignored_row_never_matters_and_a_live_nan_shows():
    logits = torch.randn(3, 4)
    logits[1] = torch.nan
    logits.requires_grad_()
    logp, entropy = selective_logprob(logits, torch.tensor([0, -100, 2]))
    (logp.sum() + entropy.sum()).backward()
    assert logp[1] == entropy[1] == 0 and logits.grad.isfinite().all()
    assert selective_logprob(logits, torch.tensor([0, 1, 2]))[0][1].isnan()


@pytest.mark.parametrize("label", [-1, 4, 99])
def test_a_label_out_of_range_is_refused(label):
    with pytest.raises(ValueError, match=rf"labels\[1\]: found {label}, expected 0..3"):
        selective_logprob(torch.zeros(2, 4), torch.tensor([0, label]))


@pytest.mark.parametrize("n", [0, 3])
def test_no_live_row_gives_zero_connected_gradients(n):
    hidden, weight = torch.randn(n, 2, requires_grad=True), torch.randn(5, 2, requires_grad=True)
    logp, _ = linear_logprob(hidden, weight, torch.full((n,), -100))
    logp.sum().backward()
    assert (weight.grad == 0).all() and (hidden.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_against_fp64_is_within_twice_torchs(dtype):
    torch.manual_seed(1)
    hidden, weight = torch.randn(64, 32), torch.randn(500, 32)
    labels = torch.randint(0, 500, (64,))
    rounded = hidden.to(dtype), weight.to(dtype)
    truth = selective_logprob(rounded[0].double() @ rounded[1].double().T, labels)[0]
    plain = torch.log_softmax((rounded[0] @ rounded[1].T).float(), -1)[torch.arange(64), labels]
    ours = linear_logprob(*rounded, labels)[0]
    assert (ours - truth).abs().max() <= 2 * (plain - truth).abs().max() + 1e-6
