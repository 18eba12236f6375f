"""What the operators launch, move, hold and wait for on a card, counted over fake tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")
from fake_card import BANDWIDTH, RATE, Counted, fake_card

from sectow_fast.kernels import PolicyLossConfig, head_ops, linear_loss_op

QWEN, ODD, WIDTH = 151_936, 151_669, 2048
HEAD = QWEN * WIDTH  # elements of W and of dW
BF16, FP32 = torch.bfloat16, torch.float32
FULL = PolicyLossConfig(kl_coef=0.1, entropy_coef=0.1)
NUMBERS = {
    **{"temperature": 1.0, "softcap": None, "scale": 1.0, "chunk": 4096},
    **{"logits_dtype": None, "group": None},
}


def made(*shape, dtype=FP32):
    return torch.empty(shape, dtype=dtype, device="cuda")


def loss_inputs(count, vocabulary=QWEN, dtype=BF16):
    """hidden, weight and constants of tokens, as `linear_policy_loss` gives them."""
    return {
        "hidden": made(count, WIDTH, dtype=dtype),
        "weight": made(vocabulary, WIDTH, dtype=dtype),
        "bias": None,
        "labels": made(count, dtype=torch.int64),
        **{name: made(count) for name in ("advantages", "old_logp", "ref_logp")},
        "rollout_logp": None,
        "mask": made(count, dtype=torch.bool),
        **dict.fromkeys(("sequence_ids", "normalizer", "temperatures", "given_rows", "main_grad")),
    }


def step(
    count, *, live=None, config=None, given=False, bound=None, capturing=False, main_grad=False,
    vocabulary=QWEN, dtype=BF16, **numbers,
) -> tuple[Counted, Counted]:  # fmt: skip
    """(forward, backward) of the fused loss on `count` rows, of which `live` are found live."""
    config, live = config or PolicyLossConfig(), count if live is None else live
    numbers = NUMBERS | numbers | {"bound": bound, "wanted": [True, True, False]}
    counted = Counted()
    with fake_card(counted, live=live, capturing=capturing):
        inputs = loss_inputs(count, vocabulary, dtype)
        if given:
            inputs["given_rows"] = made(live, dtype=torch.int64)
        if main_grad:
            inputs["main_grad"] = made(vocabulary, WIDTH)
        start(counted)
        out = linear_loss_op.linear_policy_loss_op._init_fn(**inputs, **numbers, **config.scalars())
        forward = so_far(counted)
        upstream = made()
        start(counted)
        context = mock.Mock()
        linear_loss_op._setup(context, tuple(inputs.values()), numbers, out)
        context.saved_tensors = out[1:5]
        with (
            mock.patch.object(linear_loss_op, "is_traced", lambda _: False),
            mock.patch.object(linear_loss_op, "asked_again", lambda: False),
        ):
            linear_loss_op._gradients(context, upstream)
    return forward, counted


def start(counted: Counted) -> None:
    """Count from here."""
    counted.launches.clear()
    for one in (counted.products, counted.passes, counted.waits, counted.triton):
        one.clear()
    counted.seconds, counted.before = 0.0, counted.live
    counted.peak = counted.live


def so_far(counted: Counted) -> Counted:
    lists = {k: [*one] for k, one in vars(counted).items() if isinstance(one, list)}
    return replace(counted, launches=counted.launches.copy(), **lists)


@pytest.fixture(scope="module")
def all_live():
    return step(16_384)


@pytest.fixture(scope="module")
def short():
    return step(512)


def test_launches_of_long_and_of_short_batches(all_live, short):
    for counted, most in ((all_live, 40), (short, 25), (step(16_384, live=8192), 40)):
        assert sum(one.launched for one in counted) <= most, [one.launches for one in counted]
    asked = step(512, given=True, live=300, config=FULL, logits_dtype=FP32)
    assert sum(one.launched for one in asked) <= 25, [one.launches for one in asked]


def test_the_gradient_of_the_head_is_swept_once_in_the_backward_pass(all_live, short):
    """No memset before the first chunk, no scale in the forward pass; then one read in float32 and
    one write in the model's dtype."""
    for forward, backward in (all_live, short):
        assert not forward.passes
        assert [name for name, _ in backward.passes] == ["mul"]
        assert backward.passes[0][1] == pytest.approx(6 * HEAD)
    sums = [name for name, _, shape in all_live[0].products if shape == (QWEN, WIDTH)]
    assert sums == [FP32] * 4
    assert all_live[0].launches["addmm"] == 3  # the first chunk writes, and does not add


def test_main_grad_is_one_read_and_one_write_of_it():
    forward, backward = step(512, main_grad=True)
    assert not forward.passes and forward.launched <= 12
    assert backward.passes == [("addcmul_", pytest.approx(12 * HEAD))]


def test_the_host_waits_once_and_not_where_live_rows_are_given(all_live):
    assert all_live[0].waits == ["_local_scalar_dense"] and not all_live[1].waits
    for options in (
        {"given": True, "live": 8192},
        {"bound": 8192},
        {"bound": 16_384},
        {"capturing": True},
        {"bound": 8192, "capturing": True, "config": FULL},
    ):
        for counted in step(16_384, **options):
            assert not counted.waits, options


def test_extra_memory_is_the_gradient_and_one_chunk_of_logits(all_live):
    chunk, d_hidden = 4096 * QWEN * 2, 16_384 * WIDTH * 2
    assert all_live[0].extra <= 1.01 * (4 * HEAD + chunk + d_hidden)


def floor(count: int) -> float:
    """Three products and 6 N V bytes: the logits are read twice and d logits written once."""
    return 3 * 2 * count * HEAD / RATE + 6 * count * QWEN / BANDWIDTH


def test_the_counted_time_stays_near_the_floor(all_live, short):
    for count, counted, most in ((16_384, all_live, 1.15), (512, short, 1.5)):
        assert sum(one.seconds for one in counted) <= most * floor(count)


def lines() -> list[str]:
    """The counted table of docs/KERNELS.md."""
    found = []
    for count, live in ((16_384, 16_384), (16_384, 8192), (2048, 2048), (512, 512), (256, 256)):
        forward, backward = step(count, live=live)
        seconds = forward.seconds + backward.seconds
        found.append(
            f"| {count:,} | {live:,} | {forward.launched} + {backward.launched} |"
            f" {forward.extra / 2**30:.2f} GiB | {1e3 * floor(live):.2f} ms |"
            f" {1e3 * seconds:.2f} ms | {seconds / floor(live):.2f} | not yet |"
        )
    return found


def test_the_table_of_the_docs_is_what_is_counted():
    page = (Path(__file__).parents[2] / "docs" / "KERNELS.md").read_text()
    assert "\n".join(lines()) in page, "\n".join(lines())


def test_chunks_are_balanced():
    forward, _ = step(4097)
    rows = [shape[0] for _, _, shape in forward.products if shape[1] == QWEN]
    assert rows == [2176, 1921]


def test_rows_of_an_odd_vocabulary_begin_where_a_wide_load_may():
    forward, _ = step(512, vocabulary=ODD)
    (row,) = [one for one in forward.triton if one["name"] == "linear_loss_kernel"]
    assert row["stride"] % 16 == 0 and row["stride_out"] % 16 == 0 and row["PADDED"]
    (row,) = [one for one in step(512)[0].triton if one["name"] == "linear_loss_kernel"]
    assert not row["PADDED"]


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_entropys_gradient_is_asked_for_only_with_a_coefficient(coefficient):
    config = PolicyLossConfig(entropy_coef=coefficient)
    (row,) = [
        one for one in step(512, config=config)[0].triton if one["name"] == "linear_loss_kernel"
    ]
    assert row["ENTROPY"] == (coefficient != 0)


def test_float32_logits_are_a_products_result_and_factors_stay_narrow():
    forward, _ = step(512, logits_dtype=FP32)
    logits, d_hidden, d_weight = forward.products
    assert logits == (FP32, BF16, (512, QWEN))
    assert d_hidden[:2] == (BF16, BF16) and d_weight[:2] == (FP32, BF16)


# --- linear_logprob -----------------------------------------------------------------------------


def logprob(count, *, mode="recompute", entropy=True, given=False, **numbers):
    """(forward, backward) of `linear_logprob`."""
    inputs_of = ("hidden", "weight", "bias", "labels", "temperatures", "given_rows", "main_grad")
    counted = Counted()
    with fake_card(counted, live=count):
        inputs = {k: one for k, one in loss_inputs(count).items() if k in inputs_of}
        inputs["given_rows"] = made(count, dtype=torch.int64) if given else None
        options = NUMBERS | {"ignore_index": -100} | numbers
        start(counted)
        found = head_ops.linear_logprob_op._init_fn(
            **inputs, **options, mode=mode, with_entropy=entropy, bound=None
        )
        forward = so_far(counted)
        start(counted)
        rows = head_ops.LiveRows(inputs["given_rows"], given)  # the fake does not know it
        saved = mock.patch.object(head_ops, "rows_saved", lambda *_: rows)
        if mode == "frozen":
            return forward, counted
        with saved:
            names = ("hidden", "weight", "bias", "labels", "temperatures", "main_grad")
            head_ops.linear_logprob_backward_op._init_fn(
                g_logp=made(count),
                g_entropy=made(count) if entropy else None,
                **{k: inputs[k] for k in names},
                **dict(zip(("entropy", "top", "total", "kept"), found[1:5], strict=True)),
                taken=found[5],
                told=found[6],
                **options,
                wanted=[True, True, False],
            )
    return forward, counted


def test_log_probs_take_four_products_and_the_backward_pass_makes_float32_logits_again():
    forward, backward = logprob(512, logits_dtype=FP32)
    wide = (FP32, BF16, (512, QWEN))
    assert forward.products == [wide]
    assert [one[:2] for one in backward.products] == [wide[:2], (BF16, BF16), (FP32, BF16)]
    assert backward.products[0] == wide


def test_a_frozen_head_takes_two_products_where_entropy_has_no_gradient():
    assert len(logprob(512, mode="frozen", entropy=False)[0].products) == 2
    assert len(logprob(512, mode="frozen")[0].products) == 3


def test_launches_and_waits_of_log_probs():
    for count, most in ((512, 25), (16_384, 60)):
        forward, backward = logprob(count)
        launched = forward.launched + backward.launched
        assert launched <= most, (forward.launches, backward.launches)
        assert len(forward.waits) == 1 and not backward.waits
    for counted in logprob(512, given=True):
        assert not counted.waits
