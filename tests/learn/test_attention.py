from __future__ import annotations

import sys
import types

import pytest
import torch
from families import MODELS, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from varlen_packages import PACKAGES

from sectow_fast.learn import attention, attention_flex, attention_sdpa, attention_varlen
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.segments import Segments, Span
from sectow_fast.types import UserError

PLAIN = dict(scale=None, window=None, softcap=None)


def row(groups, blocks=None, both_ways=False):
    """groups: (prompt length, completion lengths)."""
    spans, at = [], 0
    for prompt, sizes in groups:
        prefix = Span(start=at, length=prompt)
        spans.append(prefix)
        at += prompt
        for size in sizes:
            spans.append(Span(start=at, length=size, prefix=prefix))
            at += size
    return Segments(spans, at, blocks=blocks, both_ways=both_ways)


def states(segments, heads=4, shared=2, dtype=torch.float32, grad=False):
    draw = torch.Generator().manual_seed(5)
    shapes = [(segments.tokens, n, 8) for n in (heads, shared, shared)]
    made = [torch.randn(s, generator=draw, dtype=torch.float64).to(dtype) for s in shapes]
    return [one.requires_grad_(grad) for one in made]


def oracle(query, key, value, segments, *, scale=None, window=None, softcap=None):
    """Dense softmax over what `visible` says, head by head."""
    key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], 1) for one in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * (scale or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~segments.visible(window), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


ROWS = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=0, max_size=5)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(groups=ROWS, window=st.none() | st.integers(1, 8), seed=st.integers(0, 9))
def test_sdpa_equals_the_dense_oracle_in_output_and_gradients(groups, window, seed):
    segments = row(groups)
    ours, theirs = states(segments, grad=True), states(segments, dtype=torch.float64, grad=True)
    up = torch.randn(ours[0].shape, generator=torch.Generator().manual_seed(seed))
    out = attention_sdpa.attend(*ours, segments, **PLAIN | dict(window=window))
    truth = oracle(*theirs, segments, window=window)
    torch.testing.assert_close(out.double(), truth, atol=1e-5, rtol=1e-4)
    (out * up).sum().backward()
    (truth * up).sum().backward()
    for mine, wide in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.double(), wide.grad, atol=3e-5, rtol=1e-3)


@pytest.mark.parametrize("window", [None, 3])
def test_tokens_of_one_image_see_each_other_both_ways(window):
    blocks = torch.full((16,), -1)
    blocks[2:6] = 0
    segments = row([(8, [3, 5])], blocks=blocks)
    assert segments.visible()[2, 5] and not segments.visible()[1, 5]
    ours, theirs = states(segments, grad=True), states(segments, dtype=torch.float64, grad=True)
    out = attention_sdpa.attend(*ours, segments, **PLAIN | dict(window=window))
    truth = oracle(*theirs, segments, window=window)
    torch.testing.assert_close(out.double(), truth, atol=1e-5, rtol=1e-4)
    out.square().sum().backward()
    truth.square().sum().backward()
    for mine, wide in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.double(), wide.grad, atol=3e-5, rtol=1e-3)
    with pytest.raises(UserError, match="both ways"):
        attention_varlen.varlen(segments, torch.device("cpu"))


@settings(deadline=None, max_examples=15)
@given(groups=ROWS, window=st.none() | st.integers(1, 8), softcap=st.sampled_from([None, 2.0]))
def test_the_flex_mask_equals_the_dense_oracle(groups, window, softcap):
    """Outputs only: on a CPU FlexAttention has no backward pass (tests marked gpu have it)."""
    segments = row(groups)
    given = states(segments)
    out = attention_flex.attend(*given, segments, scale=None, window=window, softcap=softcap)
    truth = oracle(*given, segments, window=window, softcap=softcap)
    torch.testing.assert_close(out, truth, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_pictures_of_a_tower_see_themselves_whole(lengths):
    segments = row([(length, []) for length in lengths], both_ways=True)
    given = states(segments, shared=4)
    truth = oracle(*given, segments)
    assert bool(segments.visible()[0, : lengths[0]].all())
    for attend in (attention_sdpa.attend, attention_flex.attend):
        torch.testing.assert_close(attend(*given, segments, **PLAIN), truth, atol=1e-5, rtol=1e-4)


@pytest.fixture
def packages(monkeypatch):
    for name, made in PACKAGES.items():
        monkeypatch.setitem(sys.modules, name, made)


VARLEN = [attention_varlen.flash, attention_varlen.xformers]


@pytest.mark.parametrize("attend", VARLEN)
@pytest.mark.parametrize("both_ways", [False, True])
def test_varlen_kernels_take_float32_queries_beside_half_precision_values(
    packages, attend, both_ways
):
    """As a rotary embedding in float32 may leave them; the kernels want one dtype."""
    groups = [(7, [])] * 3 if both_ways else [(5, [3, 1]), (2, []), (4, [6])]
    segments = row(groups, both_ways=both_ways)
    query, key, value = states(segments)
    out = attend(query, key, value.bfloat16(), segments, **PLAIN)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), oracle(query, key, value, segments), atol=3e-2, rtol=3e-2
    )


@pytest.mark.parametrize(("window", "softcap"), [(3, None), (None, 2.0), (1, 2.0)])
def test_flash_has_windows_and_softcaps(packages, window, softcap):
    segments = row([(5, [3, 1]), (2, [6])])
    given = states(segments, dtype=torch.bfloat16)
    out = attention_varlen.flash(*given, segments, scale=0.3, window=window, softcap=softcap)
    wide = [one.float() for one in given]
    truth = oracle(*wide, segments, scale=0.3, window=window, softcap=softcap)
    torch.testing.assert_close(out.float(), truth, atol=3e-2, rtol=3e-2)
    with pytest.raises(UserError, match=r"found torch.float32, expected bfloat16"):
        attention_varlen.flash(*wide, segments, **PLAIN)
    with pytest.raises(UserError, match="take flash or flex"):
        attention_varlen.xformers(*given, segments, scale=None, window=window, softcap=softcap)


@pytest.mark.parametrize("attend", VARLEN)
def test_a_model_in_bfloat16_trains_through_a_varlen_kernel(packages, attend, monkeypatch):
    """Text and tower of a real class; only the refusal to run on a CPU is taken away."""
    torch.manual_seed(0)
    model = MODELS["qwen2_5_vl"]()
    made = sample(model)
    row, _ = next(Policy(model, made.codec).rows(made.groups, 1000))
    model.bfloat16()
    truth = Policy(model, made.codec)(row)[0]
    monkeypatch.setattr(attention, "load", lambda name, cuda: attend)
    found = Policy(model, made.codec, backend="flash")(row)[0]
    torch.testing.assert_close(found, truth, atol=0.1, rtol=0.05)
    found.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "words"),
    [("flash", "flash_attn"), ("xformers", "xformers"), ("magic", "expected auto, sdpa")],
)
def test_a_backend_that_is_not_there_is_an_error_that_names_it(name, words, monkeypatch):
    for package in ("flash_attn", "xformers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=words):
        Policy(MODELS["llama"](), None, backend=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CPU's refusal")
@pytest.mark.parametrize("name", ["flex", "flash"])
def test_a_backend_that_needs_a_gpu_says_so(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    with pytest.raises(UserError, match="found a CPU"):
        Policy(MODELS["llama"](), None, backend=name)


def test_other_forwards_of_the_model_are_untouched():
    """Rollout goes through the same model: with a plain mask the backend is transformers' sdpa."""
    torch.manual_seed(0)
    model = MODELS["qwen2_5_vl"]().eval()
    prompt = sample(model).groups[1][0]
    ids = torch.tensor([[0, 0, *prompt.ids], [*prompt.ids, 9, 9]])
    mask = (torch.arange(7)[None] >= torch.tensor([[2], [0]])).long()
    before = model(input_ids=ids, attention_mask=mask).logits
    assert attention.use(model) == "sdpa"
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, before)
    assert model.config.vision_config._attn_implementation == attention.TOWER + "sdpa"


def test_what_computed_attention_before_can_be_put_back():
    for name in ("qwen2_5_vl", "llava", "qwen2"):
        model = MODELS[name]()
        before = attention.implementations(model)
        attention.use(model)
        assert attention.implementations(model) != before
        attention.put(model, before)
        assert attention.implementations(model) == before
