"""What the shared-prefix row of a TRL micro-batch is made of, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from host_trl import make

from sectow_fast.adapters.trl import patch
from sectow_fast.adapters.trl_rows import Images, shared_batch, sharing
from sectow_fast.families import Family
from sectow_fast.types import Prompt

TEXT = Family(name="qwen2", axes=1, max_positions=64)
LLAVA = Family(name="llava", axes=1, max_positions=64, image_id=9, tokens_per_image=2)


def batch(**more):
    """Rows 0 and 2 share a prompt of two tokens, row 1 has one of three; lengths 2, 1, 3."""
    return {
        "prompt_ids": torch.tensor([[0, 5, 6], [7, 5, 6], [0, 5, 6]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1]]),
        "completion_ids": torch.tensor([[11, 12, 0], [13, 0, 0], [14, 15, 16]]),
        "completion_mask": torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]),
        **more,
    }


def test_a_prompt_stands_once_and_every_token_knows_its_place():
    made = shared_batch(batch(), torch.tensor([True] * 3), TEXT)
    assert made.row.input_ids.tolist() == [[5, 6, 11, 12, 14, 15, 16, 7, 5, 6, 13]]
    assert made.row.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 1, 2, 3]]
    assert made.labels.tolist() == [11, 12, 14, 15, 16, 13]
    assert made.where.tolist() == [0, 1, 6, 7, 8, 3]


def test_rows_without_a_signal_are_not_there():
    made = shared_batch(batch(), torch.tensor([False, False, True]), TEXT)
    assert made.row.input_ids.tolist() == [[5, 6, 14, 15, 16]]
    assert made.where.tolist() == [6, 7, 8]


def test_where_nothing_is_live_a_prompt_still_goes_through_the_model():
    made = shared_batch(batch(), torch.tensor([False] * 3), TEXT)
    assert made.row.input_ids.tolist() == [[5, 6]] and made.where.tolist() == []
    assert made.states(torch.ones(1, 2, 4)).shape == (0, 4) and made.labels.dtype == torch.long


def test_one_prompt_with_two_images_is_two_prompts():
    ids = torch.tensor([[9, 9, 5], [9, 9, 5], [9, 9, 5]])
    pixels = torch.tensor([1.0, 2.0, 1.0])[:, None, None, None].expand(3, 3, 4, 4)
    given = batch(prompt_ids=ids, prompt_mask=torch.ones_like(ids), pixel_values=pixels)
    made = shared_batch(given, torch.tensor([True] * 3), LLAVA)
    assert made.row.input_ids.tolist() == [[9, 9, 5, 11, 12, 14, 15, 16, 9, 9, 5, 13]]
    assert made.row.pixel_inputs["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 2.0]


def seen(found: Images, row: int) -> tuple[list[float], list[list[int]]]:
    prompt = Prompt(case_id="a", ids=(), images=found.keys(row))
    made = found.pixel_inputs([prompt])
    return made["pixel_values"].flatten().tolist(), made["image_grid_thw"].tolist()


def test_images_are_found_by_row_where_some_rows_have_none():
    grids = torch.tensor([[1, 2, 2], [1, 2, 4]])
    given = {"pixel_values": torch.arange(12.0)[:, None], "image_grid_thw": grids}
    found = Images({**given, "num_images": [1, 0, 1]}, 3)
    assert seen(found, 0) == ([0, 1, 2, 3], [[1, 2, 2]])
    assert found.keys(1) == ()
    assert seen(found, 2) == ([4, 5, 6, 7, 8, 9, 10, 11], [[1, 2, 4]])
    assert not found.same(0, 1) and not found.same(0, 2) and found.same(1, 1)


def test_rows_with_several_images_are_the_same_only_where_all_are_in_the_same_order():
    grids = torch.tensor([[1, 1, 1], [1, 1, 2]] * 2 + [[1, 1, 2], [1, 1, 1]])
    pixels = torch.tensor([1.0, 2, 3, 1, 2, 3, 2, 3, 1])[:, None]
    given = {"pixel_values": pixels, "image_grid_thw": grids, "num_images": [2, 2, 2, 0]}
    found = Images(given, 4)
    assert seen(found, 1) == ([1, 2, 3], [[1, 1, 1], [1, 1, 2]])
    assert seen(found, 2) == ([2, 3, 1], [[1, 1, 2], [1, 1, 1]])
    assert found.same(0, 1) and not found.same(0, 2) and not found.same(0, 3)


def test_images_that_cannot_be_assigned_to_rows_are_refused():
    with pytest.raises(ValueError, match="found 'image_sizes' in the batch"):
        Images({"image_sizes": torch.zeros(3, 2)}, 3)


def test_a_class_whose_layout_is_not_known_is_refused(stage, tmp_path):
    trainer, _ = make(stage, tmp_path)
    trainer.model.config.model_type = "gpt_neox"
    before = trainer.model.forward
    with pytest.raises(ValueError, match=r"shared_prefix: .*'gpt_neox'"):
        patch(trainer, shared_prefix=True).__enter__()
    assert trainer.model.forward == before and "_compute_loss" not in vars(trainer)


def test_attention_dropout_is_refused(stage, tmp_path):
    trainer, _ = make(stage, tmp_path)
    trainer.model.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"found attention_dropout 0.1, expected 0"):
        sharing(trainer.model)


def test_the_models_own_attention_is_back_after_the_block(stage, tmp_path):
    trainer, _ = make(stage, tmp_path, model="llava")
    text = trainer.model.config.get_text_config()
    before = text._attn_implementation
    with patch(trainer, shared_prefix=True):
        assert text._attn_implementation != before
    assert text._attn_implementation == before


def test_the_model_sees_fewer_tokens_and_no_dead_group(stage, tmp_path):
    seen: dict[bool, list[int]] = {}
    for shared in (False, True):
        trainer, _ = make(stage, tmp_path / str(shared), steps=4)
        rows = seen.setdefault(shared, [])
        with patch(trainer, shared_prefix=shared):
            trainer.model.base_model.register_forward_pre_hook(
                lambda _, args, given, rows=rows: rows.append(given["input_ids"].numel()),
                with_kwargs=True,
            )
            trainer.train()
    assert len(seen[True]) == len(seen[False])
    assert sum(seen[True]) < 0.6 * sum(seen[False])
    assert all(a < b for a, b in itertools.zip_longest(seen[True], seen[False]))
