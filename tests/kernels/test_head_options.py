"""What hosts ask of the head, by both paths, against float64: temperatures per token, logit scale,
float32 logits, losses per token, given live rows, `main_grad`; and scales that are far apart."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from kernel_cases import gradients, head_case, in_dtype, within_twice

from sectow_fast.kernels import (
    PolicyLossConfig,
    group_advantage,
    head,
    head_quack,
    linear_logprob,
    linear_policy_loss,
    loss_oracle,
    policy_loss,
    selective_logprob,
)

FULL = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)
HEAD = ("hidden", "weight", "bias", "labels")


def temperatures(count=17):
    return torch.linspace(0.4, 2.0, count, dtype=torch.float64)


def loss_of(function, case, config=FULL, upstream=3.0, **given):
    value = function(**case, config=config, **given)
    value = value[0] if isinstance(value, tuple) else value
    (upstream * value).sum().backward()
    return [value.detach(), *gradients(case)]


def both_of(function, case, upstream, **given):
    made = {name: case[name] for name in HEAD}
    both = torch.stack(function(**made, **given))
    (both * upstream.to(both.dtype)).sum().backward()
    return [both.detach(), *gradients(made)]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_temperature_per_token_and_logit_scale(path, softcap, scale):
    oracle, case = loss_oracle.linear_policy_loss_oracle, head_case()
    options = {"softcap": softcap, "logit_scale": scale}
    found = []
    for function, dtype in (
        (linear_policy_loss, torch.float32),
        (oracle, torch.float32),
        (oracle, torch.float64),
    ):
        per_token = temperatures().to(dtype)
        found.append(loss_of(function, in_dtype(case, dtype), temperature=per_token, **options))
    within_twice(*found, 2e-6)
    upstream, found = torch.randn(2, 17, dtype=torch.float64), []
    for function, dtype in (
        (linear_logprob, torch.float32),
        (head.linear_logprob_oracle, torch.float32),
        (head.linear_logprob_oracle, torch.float64),
    ):
        per_token = temperatures().to(dtype)
        made = in_dtype(case, dtype)
        found.append(both_of(function, made, upstream, temperature=per_token, **options))
    within_twice(*found, 2e-6)


@pytest.mark.parametrize("config", [FULL, PolicyLossConfig(), PolicyLossConfig(reduction="none")])
def test_float32_logits_in_both_passes(config):
    """Of bfloat16 factors: the gradient is that of logits that were never rounded."""
    rounded = in_dtype(head_case(17, 64, 100), torch.bfloat16)
    with torch.no_grad():
        rounded["hidden"] *= 4  # logits whose rounding to bfloat16 shows
    fields = ("hidden", "weight", "labels", "advantages", "mask", "ref_logp")
    rounded = {name: rounded[name].detach() for name in fields}
    exact = in_dtype(rounded, torch.float64)
    truth = loss_of(loss_oracle.linear_policy_loss_oracle, exact, config)
    off = []
    for dtype in (torch.float32, None):
        ours = loss_of(linear_policy_loss, in_dtype(rounded, torch.bfloat16), config,
                       logits_dtype=dtype)  # fmt: skip
        assert ours[1].dtype == torch.bfloat16
        off.append([(a.double() - b).norm() / b.norm() for a, b in zip(ours, truth, strict=True)])
    assert max(off[0]) < 4e-3 and off[0][1] < off[1][1] / 2 and off[0][2] < off[1][2] / 2, off


@pytest.mark.parametrize("ratio", ["token", "sequence", "cispo"])
def test_a_loss_per_token_takes_any_upstream_gradient(path, ratio):
    config = PolicyLossConfig(ratio=ratio, reduction="none", kl_coef=0.1, entropy_coef=0.1)
    oracle, case = loss_oracle.linear_policy_loss_oracle, head_case()
    upstream = torch.linspace(-2, 3, 17, dtype=torch.float64)
    found = [
        loss_of(function, in_dtype(case, dtype), config, upstream.to(dtype))
        for function, dtype in (
            (linear_policy_loss, torch.float32),
            (oracle, torch.float32),
            (oracle, torch.float64),
        )
    ]
    within_twice(*found, 2e-6)
    assert found[0][0].shape == (17,)
    logp, entropy = (case[name].float() for name in ("old_logp", "ref_logp"))
    fixed = {k: case[k].float() for k in ("advantages", "ref_logp", "rollout_logp")}
    fixed |= {"mask": case["mask"], "sequence_ids": case["sequence_ids"]}
    fixed |= {"old_logp": logp + 0.2}
    upstream = upstream.float().masked_fill(~case["mask"], torch.nan)  # it must not matter there
    pair = []
    for function in (policy_loss, loss_oracle.policy_loss_oracle):
        leaves = [one.clone().requires_grad_() for one in (logp, entropy)]
        value = function(leaves[0], entropy=leaves[1], config=config, **fixed)
        value = value[0] if isinstance(value, tuple) else value
        grads = torch.autograd.grad(value, leaves, upstream.nan_to_num(0.0))
        if function is policy_loss:
            again = function(leaves[0], entropy=leaves[1], config=config, **fixed)[0]
            poisoned = torch.autograd.grad(again, leaves, upstream)
            torch.testing.assert_close(poisoned, grads)
        pair.append([value.detach(), *grads])
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize("config", [PolicyLossConfig(), FULL, PolicyLossConfig(reduction="none")])
def test_given_live_rows_give_the_same(path, config):
    """Positions, a bound, and a bound of all rows, which is what a captured graph takes. What dead
    rows hold does not matter although they take part."""
    case = in_dtype(head_case(), torch.float32)
    case["mask"] = case["mask"] & (case["labels"] != -100)
    wanted = loss_of(linear_policy_loss, case, config)
    live = case["mask"].nonzero()[:, 0]
    assert len(live) < 17
    for rows in (live, len(live) + 1, 17):
        again = in_dtype(head_case(), torch.float32)
        again["mask"] = case["mask"]
        with torch.no_grad():
            for name in ("hidden", "advantages", "old_logp", "ref_logp"):
                again[name][~case["mask"]] = torch.nan
        found = loss_of(linear_policy_loss, again, config, live_rows=rows)
        torch.testing.assert_close(found, wanted)
    for rows in (live[1:], len(live) - 8):
        with pytest.raises(ValueError, match="live_rows: found"):
            linear_policy_loss(**case, config=config, live_rows=rows)


def test_main_grad_takes_the_heads_gradient(path):
    for config in (PolicyLossConfig(), PolicyLossConfig(reduction="none")):
        case = in_dtype(head_case(), torch.float32)
        _, _, d_weight, _ = loss_of(linear_policy_loss, case, config)
        again = in_dtype(head_case(), torch.float32)
        start = torch.rand(100, 8)
        total = start.clone()
        loss_of(linear_policy_loss, {**again}, config, main_grad=total)
        assert again["weight"].grad is None
        torch.testing.assert_close(total, start + d_weight)
        torch.testing.assert_close(again["hidden"].grad, case["hidden"].grad)


def test_a_frozen_head_takes_two_products_where_only_logp_is_asked_for(path, monkeypatch):
    case = in_dtype({k: head_case()[k] for k in HEAD}, torch.float32)
    labels, fixed = case["labels"], {k: case[k].detach() for k in ("weight", "bias")}
    counted, made = [], torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: counted.append(1) or made(a, b))
    grads = []
    for entropy_gradient in (True, False):
        hidden = case["hidden"].detach().clone().requires_grad_()
        logp, entropy = linear_logprob(
            hidden, labels=labels, mode="frozen", entropy_gradient=entropy_gradient, **fixed
        )
        assert entropy.requires_grad == entropy_gradient
        logp.sum().backward()
        grads.append(hidden.grad)
    assert len(counted) == 3  # two beside the logits with entropy's gradient, one without it
    torch.testing.assert_close(*grads)


# --- numbers that are far apart -----------------------------------------------------------------


def test_float16_with_a_loss_scaler(path):
    """A global count of 1e6 tokens and a scale of 65,536: neither is applied in float16 alone."""
    rounded = in_dtype({**head_case()}, torch.float16)
    names = ("hidden", "weight", "labels", "advantages")
    made = [
        in_dtype({k: rounded[k].detach() for k in names}, dtype)
        for dtype in (torch.float16, torch.float64)
    ]
    config = PolicyLossConfig(reduction="constant")
    ours = loss_of(linear_policy_loss, made[0], config, 65536.0, normalizer=1e6)
    truth = loss_of(loss_oracle.linear_policy_loss_oracle, made[1], config, 65536.0, normalizer=1e6)
    for one, exact in zip(ours[1:], truth[1:], strict=True):
        assert one.dtype == torch.float16
        assert (one.double() - exact).norm() < 3e-3 * exact.norm()
        assert (one == 0).sum() <= (exact.abs() < 1e-6).sum()


@pytest.mark.parametrize("config", [PolicyLossConfig(), PolicyLossConfig(reduction="seq-mean")])
def test_a_normalizer_of_zero_without_a_live_token_gives_zero(path, config):
    case = in_dtype(head_case(), torch.float32)
    case["mask"] = torch.zeros(17, dtype=torch.bool)
    found = loss_of(linear_policy_loss, case, config, normalizer=torch.tensor(0.0))
    assert all((one == 0).all() for one in found)


def test_outputs_do_not_follow_the_default_dtype(path):
    case = in_dtype(head_case(), torch.float32)
    torch.set_default_dtype(torch.float64)
    try:
        loss, metrics = linear_policy_loss(**case, config=FULL)
        both = selective_logprob(torch.randn(2, 5, dtype=torch.float32), torch.tensor([0, 1]))
        values, _ = group_advantage(torch.tensor([0.0, 1.0], dtype=torch.float32), group_size=2)
    finally:
        torch.set_default_dtype(torch.float32)
    for one in (loss, metrics["logp"], metrics["kl"], *both, values):
        assert one.dtype == torch.float32


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_logits_far_from_zero_keep_the_log_prob_and_the_gradient(path, offset):
    torch.manual_seed(0)
    near, labels = torch.randn(4, 5000), torch.tensor([3, 4999, 0, 17])
    near[1] += offset
    near[2] -= offset

    def run(function, dtype):
        logits = near.to(dtype, copy=True).requires_grad_()
        both = torch.stack(function(logits, labels))
        (both[0] * torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=dtype) + both[1]).sum().backward()
        return [both.detach(), logits.grad]

    from sectow_fast.kernels import logprob

    oracle = logprob.selective_logprob_oracle
    ours, plain = run(selective_logprob, torch.float32), run(oracle, torch.float32)
    within_twice(ours, plain, run(oracle, torch.float64), 3e-7)


def test_rewards_of_float64_and_rewards_that_are_not_finite(path):
    rewards = torch.tensor([0.1, 0.1 + 1e-12, 0.0, 1.0], dtype=torch.float64)
    values, signal = group_advantage(rewards, group_size=2, scale="none")
    assert values.dtype == torch.float64 and signal.all()
    torch.testing.assert_close(values[:2], rewards[:2] - rewards[:2].mean(), rtol=1e-3, atol=0)
    from sectow_fast.kernels.advantage import group_advantage_oracle

    bad = torch.tensor([0.0, 1.0, torch.inf, 2.0, torch.inf, torch.inf, 0.0, 1.0])
    options = {"baseline": "mean", "scale": "std", "ddof": 1, "eps": 1e-4}
    if path == "plain":
        index = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
        values, _ = group_advantage_oracle(bad, index, **options)
    else:
        from sectow_fast.kernels.advantage_triton import group_advantage_triton

        index = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
        values, _ = group_advantage_triton(bad, index, group_size=0, batch_std=bad, **options)
    assert values.isnan().tolist() == [True] * 6 + [False] * 2


def test_meta_tensors_have_shapes_alone():
    case = {name: one.to("meta") for name, one in in_dtype(head_case(), torch.float32).items()}
    loss, metrics = linear_policy_loss(**case)
    assert loss.is_meta and metrics["logp"].shape == (17,)
    assert linear_logprob(case["hidden"], case["weight"], case["labels"])[0].shape == (17,)


BAD = [
    ({"temperature": torch.tensor([1.0] * 16 + [0.0])}, r"temperature\[16\]: found 0.0"),
    ({"temperature": torch.ones(3)}, r"temperature: found shape \(3,\)"),
    ({"temperature": torch.ones(17).requires_grad_()}, "temperature: found requires_grad"),
    ({"chunk": 0}, "chunk: found 0, expected a whole number >= 1"),
    ({"chunk": 10**9}, "chunk: found 1000000000 rows of 100 logits, expected at most 21474836"),
    ({"logits_dtype": torch.float16}, "logits_dtype: found torch.float16, expected None"),
    ({"logit_scale": 0.0}, "logit_scale: found 0.0"),
    ({"live_rows": -1}, "live_rows: found -1"),
    ({"live_rows": torch.tensor([17])}, "live_rows: found row 17, expected 0..16"),
    ({"live_rows": torch.ones(2)}, "live_rows: found torch.float32"),
    ({"main_grad": torch.zeros(100, 7)}, r"main_grad: found shape \(100, 7\)"),
    ({"main_grad": torch.zeros(100, 8).half()}, "main_grad: found torch.float16"),
    ({"group": 2}, "group: found int, expected a ProcessGroup"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[str(list(b[0])[0]) + str(i) for i, b in enumerate(BAD)])  # fmt: skip  # noqa: E501, RUF015
def test_bad_options_are_named(given, message):
    case = in_dtype(head_case(), torch.float32)
    for function, names in ((linear_policy_loss, tuple(case)), (linear_logprob, HEAD)):
        with pytest.raises(ValueError, match=message):
            function(**{name: case[name] for name in names}, **given)


def test_quack_is_named_where_it_is_missing_and_what_it_has_not_is_refused():
    case = in_dtype({name: head_case()[name] for name in HEAD}, torch.float32)
    for given, message in (
        ({"softcap": 3.0}, r"softcap: found 3.0 with backend='quack', expected None"),
        ({"temperature": torch.ones(17)}, r"temperature: found \(17,\) with backend='quack'"),
        ({"mode": "cached"}, "mode: found 'cached' with backend='quack', expected 'recompute'"),
        ({}, r"backend: found 'quack', but quack.linear_cross_entropy cannot be imported"),
        ({"backend": "quark"}, "backend: found 'quark', expected one of sectow, quack"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_logprob(**case, **{"backend": "quack", **given})


def test_quacks_losses_become_log_probs_of_all_rows(monkeypatch):
    """Its function stands here by torch's own, since it needs a card: live rows alone reach it."""

    def per_token(hidden, weight, bias, target, reduction):
        assert reduction == "none" and len(hidden) == 16
        return torch.nn.functional.cross_entropy(hidden @ weight.T + bias, target, reduction="none")

    module = types.SimpleNamespace(linear_cross_entropy_func=per_token)
    monkeypatch.setitem(sys.modules, "quack", types.ModuleType("quack"))
    monkeypatch.setitem(sys.modules, "quack.linear_cross_entropy", module)
    made = [in_dtype({name: head_case()[name] for name in HEAD}, torch.float32) for _ in range(2)]
    with pytest.raises(ValueError, match="found 'quack' with cpu, expected a CUDA card"):
        linear_logprob(**made[0], backend="quack")
    with torch.no_grad():
        made[0]["hidden"][3] = torch.nan  # its label is -100
    found, entropy = head_quack.quack_logprob(*(made[0][k] for k in HEAD), -100)
    wanted, _ = linear_logprob(**made[1])
    torch.testing.assert_close(found, wanted)
    assert entropy.isnan().all()
    for logp in (found, wanted):
        (logp * torch.linspace(-1, 2, 17)).sum().backward()
    torch.testing.assert_close(gradients(made[0]), gradients(made[1]))


def test_a_normalizer_beside_a_loss_per_token_is_refused():
    with pytest.raises(ValueError, match="normalizer: found one with the reduction 'none'"):
        config = PolicyLossConfig(reduction="none")
        policy_loss(torch.zeros(2), torch.ones(2), normalizer=2.0, config=config)
