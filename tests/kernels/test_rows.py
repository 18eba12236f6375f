"""Values and every gradient, by both paths, against float64: odd shapes, dtypes, 2^31 elements."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import OPTIONS, gradients, head_case, in_dtype, within_twice

from sectow_fast.kernels import (
    PolicyLossConfig,
    dispatch,
    head,
    linear_logprob,
    linear_policy_loss,
    logprob,
    loss_oracle,
    policy_loss,
    selective_logprob,
)

EPSILON = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SIZES = [(0, 7), (1, 1), (17, 1), (17, 7), (5, 1000), (1, 8193)]


def logits_case(count, vocabulary, dtype):
    generator = torch.Generator().manual_seed(count + vocabulary)
    logits = (3 * torch.randn(count, vocabulary, generator=generator)).to(dtype)
    labels = torch.randint(0, vocabulary, (count,), generator=generator)
    labels[2:3] = -100
    upstream = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return logits, labels, upstream


def forward_and_gradient(function, logits, labels, upstream):
    logits = logits.clone().requires_grad_()
    both = torch.stack(function(logits, labels, temperature=0.7))
    (both * upstream.to(both.dtype)).sum().backward()
    return both.detach(), logits.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("count", "vocabulary"), SIZES)
def test_selective_logprob(path, count, vocabulary, dtype):
    logits, labels, upstream = logits_case(count, vocabulary, dtype)
    oracle = logprob.selective_logprob_oracle
    ours = forward_and_gradient(selective_logprob, logits, labels, upstream)
    plain = forward_and_gradient(oracle, logits, labels, upstream)
    truth = forward_and_gradient(oracle, logits.double(), labels, upstream)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
    within_twice(ours, plain, truth, EPSILON[dtype])


def test_one_row_of_a_real_vocabulary(path):
    logits, labels, upstream = logits_case(2, 151_936, torch.float32)
    ours = forward_and_gradient(selective_logprob, logits, labels, upstream)
    truth = forward_and_gradient(
        logprob.selective_logprob_oracle, logits.double(), labels, upstream
    )
    within_twice(ours, truth, truth, 3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_policy_loss(path, options, dtype):
    config = PolicyLossConfig(**options)
    case = head_case()
    names = ("old_logp", "ref_logp", "rollout_logp", "mask", "sequence_ids")
    logp = case["old_logp"] + 0.4 * torch.sin(torch.arange(17.0, dtype=torch.float64))

    def run(function, kind):
        made = {name: case[name].to(kind) if "logp" in name else case[name] for name in names}
        now = logp.to(kind, copy=True).requires_grad_()
        entropy = logp.abs().to(kind, copy=True).requires_grad_()
        value = function(now, case["advantages"].to(kind), entropy=entropy, config=config, **made)
        value = value[0] if isinstance(value, tuple) else value
        (3 * value).backward()
        zero = torch.zeros_like(entropy)
        return value.detach(), now.grad, zero if entropy.grad is None else entropy.grad

    ours = run(policy_loss, dtype)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
    rounded = run(loss_oracle.policy_loss_oracle, dtype)
    within_twice(ours, rounded, run(loss_oracle.policy_loss_oracle, torch.float64), EPSILON[dtype])


def fused(function, case, config, softcap=None):
    value = function(**case, config=config, temperature=0.8, softcap=softcap)
    value = value[0] if isinstance(value, tuple) else value
    # The upstream gradient is not 1: it must reach everything.
    (3 * value).backward()
    return [value.detach(), *gradients(case)]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_linear_policy_loss(path, options, softcap):
    config = PolicyLossConfig(**options)
    oracle = loss_oracle.linear_policy_loss_oracle
    case = head_case()
    truth = fused(oracle, in_dtype(case, torch.float64), config, softcap)
    plain = fused(oracle, in_dtype(case, torch.float32), config, softcap)
    ours = fused(linear_policy_loss, in_dtype(case, torch.float32), config, softcap)
    within_twice(ours, plain, truth, 2e-6)
    assert all(one.abs().max() > 0 for one in truth[1:])


ABSENT = [
    ("old_logp", "ref_logp", "rollout_logp"),  # the form in which the trainer makes its update
    ("old_logp", "ref_logp"),
    ("old_logp",),
    ("ref_logp",),
]


@pytest.mark.parametrize("ratio", ["token", "cispo", "sapo"])
@pytest.mark.parametrize("absent", ABSENT, ids="+".join)
def test_linear_policy_loss_without_inputs_that_may_be_absent(path, absent, ratio):
    config = PolicyLossConfig(
        ratio=ratio,
        kl_coef=0.0 if "ref_logp" in absent else 0.2,
        tis_cap=None if "rollout_logp" in absent else 1.1,
    )
    oracle = loss_oracle.linear_policy_loss_oracle
    case = {name: one for name, one in head_case().items() if name not in absent}
    truth = fused(oracle, in_dtype(case, torch.float64), config)
    plain = fused(oracle, in_dtype(case, torch.float32), config)
    within_twice(
        fused(linear_policy_loss, in_dtype(case, torch.float32), config), plain, truth, 2e-6
    )
    assert all(one.abs().max() > 0 for one in truth[1:])


@pytest.mark.parametrize("vocabulary", [1, 7, 1000])
@pytest.mark.parametrize("count", [0, 1, 17])
def test_linear_policy_loss_at_odd_shapes_in_half(path, count, vocabulary):
    config = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)
    oracle = loss_oracle.linear_policy_loss_oracle
    case = in_dtype(head_case(count, 8, vocabulary), torch.float16)
    exact = in_dtype({k: v.detach() for k, v in case.items()}, torch.float64)
    plain = in_dtype({k: v.detach() for k, v in case.items()}, torch.float16)
    within_twice(
        fused(linear_policy_loss, case, config),
        fused(oracle, plain, config),
        fused(oracle, exact, config),
        2e-3,
    )


@pytest.mark.parametrize("mode", head.MODES)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_linear_logprob_modes(path, mode, softcap):
    case = head_case()
    upstream = torch.randn(2, 17, dtype=torch.float64)

    def run(function, dtype, **more):
        made = in_dtype({k: case[k] for k in ("hidden", "weight", "bias", "labels")}, dtype)
        if mode == "frozen":
            made["weight"] = made["weight"].detach()
            made["bias"] = made["bias"].detach()
        both = torch.stack(function(**made, temperature=0.8, softcap=softcap, **more))
        (both * upstream.to(both.dtype)).sum().backward()
        return [both.detach(), *(one for one in gradients(made) if one is not None)]

    truth = run(head.linear_logprob_oracle, torch.float64)
    plain = run(head.linear_logprob_oracle, torch.float32)
    within_twice(run(linear_logprob, torch.float32, mode=mode, chunk=5), plain, truth, 2e-6)


def test_offsets_beyond_two_to_the_31(path, tmp_path):
    """Rows 2^30 elements apart, in a sparse file: the third overflows int32, to where 7 stands."""
    if path == "plain":
        pytest.skip("torch's own indexing")
    from kernel_cases import one_chunk
    from sectow_fast.kernels.head_form import HeadForm
    from sectow_fast.kernels.logprob_triton import selective_backward, selective_forward
    from sectow_fast.kernels.loss_batch import score_rows

    stride, wide = 1 << 30, 40
    size = 4 * stride + wide
    sparse = torch.from_file(str(tmp_path / "far"), shared=True, size=size, dtype=torch.float16)
    sparse[:wide] = 7.0
    far = sparse.as_strided((3, wide), (stride, 1), 2 * stride)
    near = torch.randn(3, wide).half()
    labels, one, form = torch.tensor([1, 2, 3]), torch.ones(3), HeadForm(whole=wide)
    wanted = selective_forward(near, labels, form, ignore_index=-100)
    far.copy_(near)
    torch.testing.assert_close(selective_forward(far, labels, form, ignore_index=-100), wanted)
    given = {"g_logp": one, "g_entropy": one, "logits": near, "labels": labels, "form": form}
    given |= {"entropy": wanted[1], "top": wanted[2], "total": wanted[3], "ignore_index": -100}
    near_gradient = selective_backward(**given, out=torch.empty_like(near))
    torch.testing.assert_close(selective_backward(**given, out=far), near_gradient)
    far.copy_(near)
    for logits in (far, near):
        score_rows(*one_chunk(logits, labels), logits)
    torch.testing.assert_close(far.contiguous(), near)


def test_dw_is_summed_in_float32_over_many_chunks(monkeypatch):
    """In bfloat16 the sum over 64 chunks would lose several bits."""
    case = head_case(512, 8, 16)
    config = PolicyLossConfig()
    monkeypatch.setattr(dispatch, "CPU_ELEMENTS", 16 * 8)
    monkeypatch.setattr(dispatch, "CPU_ROWS", 1)
    names = ("hidden", "weight", "labels", "advantages")
    ours = in_dtype({k: case[k] for k in names}, torch.bfloat16)
    exact = in_dtype({k: v.detach() for k, v in ours.items()}, torch.float64)
    plain = in_dtype({k: v.detach() for k, v in ours.items()}, torch.bfloat16)
    oracle = loss_oracle.linear_policy_loss_oracle
    error = [fused(linear_policy_loss, ours, config), fused(oracle, plain, config)]
    truth = fused(oracle, exact, config)
    off = [(one[2].double() - truth[2]).norm().item() for one in error]
    assert off[0] <= 1.2 * off[1], off
    for one, mode in ((linear_logprob, "recompute"), (linear_logprob, "cached")):
        made = in_dtype({k: case[k] for k in names[:3]}, torch.bfloat16)
        one(**made, mode=mode)[0].sum().backward()
        exact = in_dtype({k: v.detach() for k, v in made.items()}, torch.float64)
        head.linear_logprob_oracle(**exact)[0].sum().backward()
        whole = in_dtype({k: v.detach() for k, v in made.items()}, torch.bfloat16)
        head.linear_logprob_oracle(**whole)[0].sum().backward()
        truth = exact["weight"].grad
        off = [(x["weight"].grad.double() - truth).norm().item() for x in (made, whole)]
        assert off[0] <= 1.2 * off[1], (mode, off)
