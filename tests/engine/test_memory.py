"""The memory plan: pure arithmetic over a model's shape, and the presets it is printed for."""

from __future__ import annotations

import pytest
import torch

from sectow_fast.engine.memory import GIB, KNOWN, plan_memory, shape_of
from sectow_fast.engine.sglang_settings import memory_plan
from sectow_fast.settings import PRESETS, load_config
from sectow_fast.types import UserError

SETTING = dict(tp=1, tokens_per_batch=8192, context=4096, max_running=128, bucket=512 * 2**20)


def plan(gib: float, ranks: int = 1, **more):
    return plan_memory(KNOWN["qwen2.5-vl-3b"], gpu=int(gib * GIB), ranks=ranks, **SETTING, **more)


def test_two_engines_then_one_then_offload_then_no():
    found = [plan(gib) for gib in (140, 80, 70, 24)]
    assert [(p.roles, p.offload, p.fits) for p in found] == [
        ("two", False, True),
        ("swap", False, True),
        ("two", True, True),
        ("swap", True, False),
    ]
    assert [p.host > 0 for p in found] == [False, False, True, True]


def test_what_was_asked_for_is_kept_and_phases_are_sums():
    for roles in ("two", "swap"):
        found = plan(140, roles=roles)
        assert found.roles == roles
        assert found.peak == max(sum(phase.values()) for phase in found.phases.values())
    weights = {r: plan(140, roles=r).phases["rollout"]["engine weights"] for r in ("two", "swap")}
    assert weights["two"] == 2 * weights["swap"] == 4 * KNOWN["qwen2.5-vl-3b"].parameters


def test_more_ranks_shard_the_trainer_and_not_the_engine():
    one, eight = plan(140), plan(140, ranks=8)
    assert eight.phases["train"]["optimizer"] == one.phases["train"]["optimizer"] // 8
    assert eight.phases["sync"]["engine weights"] == one.phases["sync"]["engine weights"]


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b-1gpu", "qwen2.5-vl-7b-8gpu"])
def test_the_presets_load_and_fit(name):
    config = load_config(PRESETS / f"{name}.toml")
    assert config.preset == name and config.engine.kind == "sglang"
    assert config.attack.loss.tis_cap and config.defend.loss.tis_cap
    assert memory_plan(config, config.model.defender).fits


def test_known_shapes_are_the_models_own():
    """Counted on the meta device from the published configurations."""
    import transformers

    vision = dict(hidden_size=1280, depth=32, num_heads=16, fullatt_block_indexes=[7, 15, 23, 31])
    text = {
        "qwen2.5-vl-3b": dict(
            hidden_size=2048,
            intermediate_size=11008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=2,
            vocab_size=151936,
            tie_word_embeddings=True,
        ),
        "qwen2.5-vl-7b": dict(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
            tie_word_embeddings=False,
        ),
    }
    for name, own in text.items():
        tied = own["tie_word_embeddings"]
        config = transformers.Qwen2_5_VLConfig(
            text_config=own,
            vision_config=vision | dict(intermediate_size=3420, out_hidden_size=own["hidden_size"]),
            tie_word_embeddings=tied,
        )
        with torch.device("meta"):
            model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        model.tie_weights()
        shape = KNOWN[name]
        assert sum(p.numel() for p in model.parameters()) == shape.parameters
        assert (shape.layers, shape.hidden) == (own["num_hidden_layers"], own["hidden_size"])
        assert shape.kv_heads == own["num_key_value_heads"]
        assert shape.head_dim == own["hidden_size"] // own["num_attention_heads"]


def test_a_folders_shape_is_read_and_a_missing_one_is_named(stage, tmp_path):
    model = stage.defender()
    stage.save(model, tmp_path / "model")
    shape = shape_of(str(tmp_path / "model"))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.hidden) == (3, 128)
    with pytest.raises(UserError, match=r"/nowhere: found no config\.json"):
        shape_of("/nowhere")
