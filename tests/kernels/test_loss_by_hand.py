from __future__ import annotations

import pytest
import torch

from sectow_fast.kernels import PolicyLossConfig, linear_policy_loss, policy_loss


def tensors(n=12):
    torch.manual_seed(n)
    double = {"dtype": torch.float64}
    return {
        "logp": -torch.rand(n, **double) - 0.1,
        "old_logp": -torch.rand(n, **double) - 0.1,
        "ref_logp": -torch.rand(n, **double) - 0.1,
        "rollout_logp": -torch.rand(n, **double) - 0.1,
        "advantages": torch.randn(n, **double),
        "entropy": torch.rand(n, **double),
        "sequence_ids": torch.arange(n) // 4,
        "mask": torch.arange(n) % 5 != 0,
    }


def by_hand(t, config):
    """A loop over tokens, written apart from the code under test (token, cispo, sapo ratios)."""
    total, sums, sizes = 0.0, {}, {}
    for i in range(len(t["logp"])):
        if not t["mask"][i]:
            continue
        logp, old, a = t["logp"][i], t["old_logp"][i], t["advantages"][i]
        r = (logp - old).exp()
        clipped = r.clamp(1 - config.clip_low, 1 + config.clip_high)
        loss = -torch.minimum(r * a, clipped * a)
        if config.ratio == "cispo":
            loss = -clipped.detach() * a * logp
        if config.ratio == "sapo":
            tau = config.sapo_pos if a > 0 else config.sapo_neg
            loss = -4 / tau / (1 + (-tau * (r - 1)).exp()) * a
        if config.dual_clip and a < 0:
            loss = torch.minimum(loss, -config.dual_clip * a)
        d = t["ref_logp"][i] - logp
        kl = {"k1": -d, "k2": d * d / 2, "k3": d.exp() - d - 1}[config.kl]
        loss = loss + config.kl_coef * kl * (r if config.kl_unbiased else 1)
        loss = loss - config.entropy_coef * t["entropy"][i]
        if config.tis_cap:
            loss = loss * (old - t["rollout_logp"][i]).exp().clamp(max=config.tis_cap)
        importance = float((old - t["rollout_logp"][i]).exp())
        if importance < (config.band_low or 0) or importance > (config.band_high or 1e9):
            loss = loss * 0
        total = total + loss
        s = int(t["sequence_ids"][i])
        sums[s], sizes[s] = sums.get(s, 0.0) + loss, sizes.get(s, 0) + 1
    if config.reduction == "token-mean":
        return total / int(t["mask"].sum())
    if config.reduction == "seq-mean":
        return sum(sums[s] / sizes[s] for s in sums) / len(sums)
    return sum(sums.values()) / len(sums)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_low": 0.1, "clip_high": 0.5, "dual_clip": 1.5},
        {"kl_coef": 0.3, "kl": "k1"},
        {"kl_coef": 0.3, "kl": "k2"},
        {"kl_coef": 0.3, "kl": "k3", "entropy_coef": 0.2},
        {"kl_coef": 0.3, "kl_unbiased": True},
        {"ratio": "cispo"},
        {"ratio": "cispo", "kl_coef": 0.3, "kl_unbiased": True},
        {"ratio": "sapo"},
        {"ratio": "sapo", "sapo_pos": 0.7, "sapo_neg": 2.0, "kl_coef": 0.3, "kl_unbiased": True},
        {"reduction": "seq-mean", "tis_cap": 1.1},
        {"reduction": "seq-sum"},
        {"band_low": 0.9, "kl_coef": 0.3, "entropy_coef": 0.2},
        {"band_high": 1.1, "tis_cap": 1.05},
        {"band_low": 0.8, "band_high": 1.2, "reduction": "seq-mean"},
    ],
)
def test_value_and_gradient_equal_a_loop_by_hand(options):
    config = PolicyLossConfig(**options)
    ours, theirs = tensors(), tensors()
    ours["logp"].requires_grad_()
    theirs["logp"].requires_grad_()
    loss, _ = policy_loss(**ours, config=config)
    wanted = by_hand(theirs, config)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(ours["logp"].grad, theirs["logp"].grad)


def test_a_token_outside_the_band_teaches_nothing_and_one_on_its_edge_does():
    """Whatever it would have taught: loss, KL and entropy. NaN is not hidden by it."""
    t = tensors()
    gap = torch.tensor([0.0, 0.49, 0.51, 1.99, 2.01, 30.0]).double().log()
    names = ("logp", "old_logp", "ref_logp", "advantages", "entropy")
    given = {name: t[name][:6].clone() for name in names}
    given["rollout_logp"] = given["old_logp"] - gap
    given["logp"].requires_grad_()
    config = PolicyLossConfig(band_low=0.5, band_high=2.0, kl_coef=0.3)
    loss, metrics = policy_loss(**given, config=config)
    loss.backward()
    assert (given["logp"].grad != 0).tolist() == [False, False, True, True, False, False]
    assert metrics["live"] == 6  # all count in the mean
    for low, high in ((None, 2.0), (0.5, None)):
        given["logp"].grad = None
        half = PolicyLossConfig(band_low=low, band_high=high, kl_coef=0.3)
        policy_loss(**given, config=half)[0].backward()
        inside = [high is not None] * 2 + [True] * 2 + [low is not None] * 2
        assert (given["logp"].grad != 0).tolist() == inside
    given["logp"].data[4] = torch.nan
    assert policy_loss(**given, config=config)[0].isnan()


@pytest.mark.parametrize(("low", "high"), [(-0.1, None), (2.0, 1.0), (1.0, 1.0), (None, 0.0)])
def test_a_band_that_holds_nothing_is_refused_by_name(low, high):
    with pytest.raises(ValueError, match=r"band_low .* band_high"):
        PolicyLossConfig(band_low=low, band_high=high)


def test_sequence_ratio_is_the_geometric_mean():
    t = tensors(8)
    t["mask"] = torch.ones(8, dtype=torch.bool)
    _, metrics = policy_loss(**t, config=PolicyLossConfig(ratio="sequence"))
    gaps = (t["logp"] - t["old_logp"]).view(2, 4).mean(1).exp()
    torch.testing.assert_close(metrics["ratio_max"], gaps.max())
    torch.testing.assert_close(metrics["ratio_mean"], gaps.mean())


def test_on_policy_gradient_is_the_policy_gradient():
    logp = torch.randn(6, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(6, dtype=torch.float64)
    loss, metrics = policy_loss(logp, advantages)
    loss.backward()
    torch.testing.assert_close(logp.grad, -advantages / 6)
    assert metrics["clip_low"] == metrics["clip_high"] == 0


@pytest.mark.parametrize("gap", [100.0, -100.0])
@pytest.mark.parametrize("advantages", [1.0, 0.0, -1.0])
def test_a_huge_log_ratio_stays_finite(gap, advantages):
    logp = torch.tensor([gap], requires_grad=True)
    loss, _ = policy_loss(logp, torch.tensor([advantages]), old_logp=torch.zeros(1))
    loss.backward()
    assert loss.isfinite() and logp.grad.isfinite().all()


def test_masked_nan_never_matters_and_live_nan_is_never_hidden():
    t = tensors()
    for name in ("logp", "old_logp", "advantages", "ref_logp"):
        t[name][0] = torch.nan
    t["logp"].requires_grad_()
    config = PolicyLossConfig(kl_coef=0.1)
    loss, _ = policy_loss(**t, config=config)
    loss.backward()
    assert loss.isfinite() and t["logp"].grad.isfinite().all()
    for name in ("logp", "advantages"):
        live = tensors()
        live[name][1] = torch.nan
        assert policy_loss(**live, config=config)[0].isnan(), name


def test_all_masked_gives_zero_connected_gradients():
    logp = torch.randn(3, requires_grad=True)
    loss, _ = policy_loss(logp, torch.ones(3), mask=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (logp.grad == 0).all()


def test_the_gradient_passes_at_the_very_edge_of_the_clip():
    old = torch.zeros(1, dtype=torch.float64)
    logp = torch.log(torch.tensor([1.28], dtype=torch.float64)).requires_grad_()
    loss, _ = policy_loss(logp, torch.ones(1, dtype=torch.float64), old_logp=old)
    loss.backward()
    torch.testing.assert_close(logp.grad, torch.tensor([-1.28], dtype=torch.float64))


def test_global_normalizer_makes_the_loss_add_up_over_cuts():
    t = tensors()
    whole, _ = policy_loss(**t)
    count = int(t["mask"].sum())
    parts = [{k: v[a:b] for k, v in t.items()} for a, b in ((0, 5), (5, 12))]
    torch.testing.assert_close(
        sum(policy_loss(**part, normalizer=count)[0] for part in parts), whole
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"kl_coef": 0.1}, "ref_logp"),
        ({"tis_cap": 2.0}, "rollout_logp"),
        ({"band_low": 0.5}, "rollout_logp"),
        ({"band_high": 2.0}, "rollout_logp"),
        ({"entropy_coef": 0.1}, "entropy"),
        ({"ratio": "sequence"}, "sequence_ids"),
        ({"reduction": "constant"}, "normalizer"),
    ],
)
def test_what_the_configuration_needs_is_asked_for(options, name):
    with pytest.raises(ValueError, match=f"{name}: found None"):
        policy_loss(torch.zeros(2), torch.ones(2), config=PolicyLossConfig(**options))


def test_linear_policy_loss_has_every_gradient_and_skips_masked_rows():
    torch.manual_seed(0)
    hidden = torch.randn(7, 3, dtype=torch.float64)
    hidden[2] = torch.nan
    hidden.requires_grad_()
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    labels, advantages = torch.randint(0, 5, (7,)), torch.randn(7, dtype=torch.float64)
    mask = torch.arange(7) != 2
    config = PolicyLossConfig(entropy_coef=0.1)
    loss, metrics = linear_policy_loss(
        hidden, weight, labels, advantages, bias=bias, mask=mask, config=config
    )
    loss.backward()
    states = hidden.detach()[mask].requires_grad_()
    head, shift = weight.detach().requires_grad_(), bias.detach().requires_grad_()
    full = torch.log_softmax(states @ head.T + shift, -1)
    entropy = -(full.exp() * full).sum(-1)
    wanted = (-full[torch.arange(6), labels[mask]] * advantages[mask] - 0.1 * entropy).mean()
    (wanted_grads) = torch.autograd.grad(wanted, (states, head, shift))
    torch.testing.assert_close(hidden.grad[mask], wanted_grads[0])
    torch.testing.assert_close(weight.grad, wanted_grads[1])
    torch.testing.assert_close(bias.grad, wanted_grads[2])
    assert (hidden.grad[2] == 0).all() and metrics["live"] == 6
