from __future__ import annotations

import itertools

import pytest
import torch
from alone import check_rows
from families import MODELS, Codec, completion, sample

from sectow_fast.learn.packing import IGNORE, pack, plan_rows, rank_rows
from sectow_fast.learn.policy import Policy
from sectow_fast.types import Completion, Prompt, UserError


@pytest.fixture(params=MODELS)
def tiny(request):
    torch.manual_seed(3)
    return MODELS[request.param]()


@pytest.mark.parametrize("budget", [60, 1000])
def test_packed_rows_equal_separate_forwards_in_logp_and_every_gradient(tiny, budget):
    check_rows(tiny, sample(tiny), budget)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_m_rope_positions_are_the_models_own(name):
    model = MODELS[name]()
    made = sample(model)
    for prompt, _ in made.groups:
        if not prompt.images:
            continue
        ids = torch.tensor([prompt.ids])
        grid = made.codec.pixel_inputs([prompt])["image_grid_thw"]
        theirs, deltas = model.model.get_rope_index(
            ids, image_grid_thw=grid, **made.codec.family.own_inputs(ids)
        )
        ours, begin = made.codec.family.positions(prompt.ids, list(grid))
        assert torch.equal(ours, theirs[:, 0])
        assert begin == len(prompt.ids) + int(deltas)


def test_rows_keep_the_budget_every_completion_and_its_owner():
    codec = Codec(MODELS["llama"]())
    groups = [
        (codec.prompt(f"p{i}", 0, 3 + i), [completion(1 + (i + j) % 6, i + j) for j in range(5)])
        for i in range(7)
    ]
    plan = plan_rows(groups, 24, ranks=3)
    assert len(plan) == 3 and max(map(len, plan)) - min(map(len, plan)) <= 1
    seen = [(p.group, j) for rows in plan for row in rows for p in row for j in p.picked]
    assert sorted(seen) == [(i, j) for i in range(7) for j in range(5)]
    for pieces in itertools.chain(*plan):
        chosen = [(groups[p.group][0], [groups[p.group][1][j] for j in p.picked]) for p in pieces]
        row = pack(chosen, codec=codec, family=codec.family)
        assert row.tokens <= 24
        assert row.labels.tolist() == [i for _, done in chosen for one in done for i in one.ids]
        # The state that predicts a token has the position of the token before it.
        for column, label, owner in zip(row.column, row.labels, row.owner, strict=True):
            prompt, one = [(p, c) for p, done in chosen for c in done][owner]
            assert label in one.ids and row.input_ids[0, column] in (*prompt.ids, *one.ids)


def test_ranks_get_the_same_number_of_rows_and_a_spare_row_has_no_labels():
    model = MODELS["qwen2_5_vl"]()
    made = sample(model)
    text = [group for group in made.groups if not group[0].images]
    image = made.codec.prompt("dummy", 1, 1, "square")
    ranks = [
        list(
            rank_rows(
                text, 100, codec=made.codec, family=made.codec.family, rank=r, world=2, dummy=image
            )
        )
        for r in range(2)
    ]
    assert [len(rows) for rows in ranks] == [1, 1]
    rows = [row for rows in ranks for row, _ in rows]
    assert sorted(bool((row.labels == IGNORE).all()) for row in rows) == [False, True]
    policy = Policy(model, made.codec)
    for row in rows:
        # The vision tower runs although no group has an image, and gets no gradient from it.
        assert "pixel_values" in row.pixel_inputs
        policy(row, ban=False)[0].sum().backward()
        for name, parameter in model.named_parameters():
            if "visual" in name:
                assert parameter.grad is not None and not parameter.grad.any()


def piece_list(plan):
    return [[[(p.group, *p.picked) for p in row] for row in rows] for rows in plan]


def test_a_row_is_laid_out_as_its_docstring_says():
    codec = Codec(MODELS["llama"]())
    a, b, c = 20, 30, 40
    groups = [
        (Prompt(case_id="x", ids=(7, 8)), [done(a, -0.5), done(b, -1.5)]),
        (Prompt(case_id="y", ids=(9,)), [done(c, -2.5)]),
    ]
    row = pack(groups, codec=codec, family=codec.family)
    assert row.input_ids.tolist() == [[7, 8, a, b, 9, c]] and row.tokens == 6
    assert row.position_ids.tolist() == [[0, 1, 2, 2, 0, 1]]
    assert row.column.tolist() == [1, 1, 4]
    assert row.labels.tolist() == [a, b, c]
    assert row.rollout_logp.tolist() == [-0.5, -1.5, -2.5]
    assert row.owner.tolist() == [0, 1, 2]
    spans = [(s.start, s.length, s.prefix and s.prefix.start) for s in row.segments.spans]
    assert spans == [(0, 2, None), (2, 1, 0), (3, 1, 0), (4, 1, None), (5, 1, 4)]
    assert row.segments.tokens == 6 and row.segments.blocks is None and row.pixel_inputs == {}


def done(token: int, logp: float) -> Completion:
    return Completion(ids=(token,), logprobs=(logp,), finish_reason="stop")


def test_a_prompt_alone_may_fill_every_position_and_keeps_the_dtypes_of_empty_columns():
    codec = Codec(MODELS["llama"]())
    row = pack([(codec.prompt("p", 0, 128), [])], codec=codec, family=codec.family)
    assert row.tokens == 128
    assert [row.column.dtype, row.labels.dtype, row.owner.dtype] == [torch.long] * 3
    assert row.rollout_logp.dtype == torch.float32 and len(row.rollout_logp) == 0


def test_tokens_of_one_image_form_a_block_of_its_number():
    codec = Codec(MODELS["gemma3"]())
    groups = [(codec.prompt("p", 1, 2, key), [completion(1, 0)]) for key in ("wide", "tall")]
    row = pack(groups, codec=codec, family=codec.family)
    assert row.segments.blocks.tolist() == [
        *[-1, 0, 0, 0, 0, -1, -1, -1],
        *[-1, 1, 1, 1, 1, -1, -1, -1],
    ]


def test_a_group_over_the_budget_is_cut_where_the_next_completion_does_not_fit():
    codec = Codec(MODELS["llama"]())
    sizes = [3, 3, 6, 1, 4, 2]
    groups = [(codec.prompt("p", 0, 2), [completion(size, 0) for size in sizes])]
    pieces = sorted(itertools.chain(*itertools.chain(*piece_list(plan_rows(groups, 8)))))
    assert pieces == [(0, 0, 1), (0, 2), (0, 3, 4), (0, 5)]


def test_one_rank_gets_all_rows_where_no_number_of_ranks_is_given():
    codec = Codec(MODELS["llama"]())
    groups = [(codec.prompt(f"p{i}", 0, 2), [completion(2, 0)]) for i in range(3)]
    assert len(plan_rows(groups, 4)) == 1 and len(plan_rows(groups, 4)[0]) == 3
    assert plan_rows([(codec.prompt("p", 0, 2), [])], 4) == [[]]


def test_a_dummy_image_joins_only_rows_of_several_ranks_that_have_none():
    made = sample(MODELS["qwen2_5_vl"]())
    dummy = made.codec.prompt("dummy", 1, 1, "square")
    image = [group for group in made.groups if group[0].images]
    text = [group for group in made.groups if not group[0].images]

    def prompts(groups, world, dummy):
        rows = rank_rows(
            groups, 100, codec=made.codec, family=made.codec.family, world=world, dummy=dummy
        )
        ((row, pieces),) = rows
        assert {p.group for p in pieces} <= set(range(len(groups)))
        return len(row.segments.prompts) - len({p.group for p in pieces})

    assert prompts(text, 2, dummy) == 1
    assert prompts(text, 1, dummy) == prompts(text, 2, None) == prompts(image, 2, dummy) == 0


class TestBadInput:
    def test_a_completion_over_the_budget_is_named_with_numbers(self):
        codec = Codec(MODELS["llama"]())
        group = (codec.prompt("case-9", 0, 6), [completion(2, 0), completion(30, 0)])
        with pytest.raises(UserError, match=r"'case-9', completion 1.* 6 prompt.* 30.*32"):
            plan_rows([group], 32)

    def test_image_tokens_that_do_not_match_the_image(self):
        codec = Codec(MODELS["qwen2_vl"]())
        wide = codec.prompt("case-3", 2, 2, "wide")
        wrong = type(wide)(case_id="case-3", ids=wide.ids, images=("square",))
        with pytest.raises(UserError, match=r"'case-3'.*found 8 image tokens.*expected 4"):
            pack([(wrong, [completion(1, 0)])], codec=codec, family=codec.family)

    def test_positions_that_overflow(self):
        codec = Codec(MODELS["llama"]())
        group = (codec.prompt("case-4", 0, 120), [completion(9, 0)])
        with pytest.raises(UserError, match=r"'case-4'.*120 prompt tokens.* 9,.*128"):
            pack([group], codec=codec, family=codec.family)

    def test_a_class_without_a_known_layout(self):
        import transformers

        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9)
        )
        with pytest.raises(UserError, match=r"GPT2LMHeadModel.*'gpt2'.*qwen2_5_vl"):
            Policy(model, None)
