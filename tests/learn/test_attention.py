from __future__ import annotations

import sys
import types

import pytest
import torch
from families import MODELS, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from sectow_fast.learn import attention, attention_flex, attention_sdpa, attention_varlen
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.segments import Segments, Span
from sectow_fast.types import UserError

PLAIN = dict(scale=None, window=None, softcap=None)


def row(groups, blocks=None):
    """groups: (prompt length, completion lengths)."""
    spans, at = [], 0
    for prompt, sizes in groups:
        prefix = Span(start=at, length=prompt)
        spans.append(prefix)
        at += prompt
        for size in sizes:
            spans.append(Span(start=at, length=size, prefix=prefix))
            at += size
    return Segments(spans, at, blocks=blocks)


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


def varlen_by_hand(query, key, value, queries, keys, scale, window):
    """What flash-attn's varlen documents: causal, aligned to the end of each sequence's keys."""
    parts, at, before = [], 0, 0
    for mine, theirs in zip(queries, keys, strict=True):
        alone = Segments([Span(start=0, length=theirs)], theirs)
        padded = torch.cat(
            [query.new_zeros(theirs - mine, *query.shape[1:]), query[at : at + mine]]
        )
        part = oracle(
            padded,
            key[before : before + theirs],
            value[before : before + theirs],
            alone,
            scale=scale,
            window=window,
        )
        parts.append(part[theirs - mine :])
        at, before = at + mine, before + theirs
    return torch.cat(parts)


@settings(deadline=None, max_examples=20)
@given(groups=ROWS, window=st.none() | st.integers(1, 8))
def test_joined_sequences_mean_the_same_to_a_varlen_kernel(groups, window):
    segments = row(groups)
    query, key, value = states(segments)
    plan = attention_varlen.varlen(segments, query.device)
    assert plan.query_ends.tolist()[-1] == segments.tokens
    assert plan.key_ends.tolist()[-1] == len(plan.keys)
    out = varlen_by_hand(
        query, key[plan.keys], value[plan.keys], plan.query_lengths, plan.key_lengths, None, window
    )
    torch.testing.assert_close(out, oracle(query, key, value, segments, window=window))


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
    vision = model.config.vision_config._attn_implementation
    assert not vision.startswith(attention.PREFIX)
