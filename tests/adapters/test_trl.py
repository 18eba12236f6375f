"""In the real TRL: with our loss, the same losses, gradient norms, measures and weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from host_trl import Drawn, assert_same, assert_three_ways, make, run, weights_of
from tiny_text import MODELS

from sectow_fast.adapters.trl import SectowGRPOTrainer, patch


@pytest.mark.parametrize("model", ["text", "llava", "qwen"])
def test_twenty_steps_are_trls_own(stage, tmp_path, model):
    assert_three_ways(stage, tmp_path, model=model, steps=20)


@pytest.mark.parametrize("model", MODELS)
def test_every_checkpoint_of_words_alone_is_trls_own(stage, tmp_path, model):
    assert_three_ways(stage, tmp_path, model=model, steps=2)


@pytest.mark.parametrize("model", ["llava", "qwen"])
def test_prompts_of_several_pictures_are_trls_own(stage, tmp_path, model):
    assert_three_ways(stage, tmp_path, model=model, steps=1, pictures=3)


OPTIONS = {
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.3},
    "cispo": {"loss_type": "cispo", "epsilon_high": 2.0, "num_iterations": 2},
    "sapo": {"loss_type": "sapo", "num_iterations": 3, "sapo_temperature_neg": 3.0},
    "luspo": {
        "loss_type": "luspo",
        "importance_sampling_level": "sequence",
        "num_iterations": 3,
        "epsilon": 0.01,
        "epsilon_high": 0.01,
    },
    "luspo, token ratio": {"loss_type": "luspo", "num_iterations": 2},
    "kl, unbiased": {"beta": 0.1, "num_iterations": 3},
    "kl, unbiased, sequence ratio": {
        "beta": 0.1,
        "num_iterations": 3,
        "importance_sampling_level": "sequence",
    },
    "kl, unbiased, cispo": {
        "beta": 0.1,
        "num_iterations": 3,
        "loss_type": "cispo",
        "epsilon_high": 2.0,
    },
    "kl": {"beta": 0.1, "use_bias_correction_kl": False},
    "kl, sequence mean": {"beta": 0.1, "use_bias_correction_kl": False, "loss_type": "grpo"},
    "old log-probs": {"num_iterations": 3, "epsilon": 0.02, "epsilon_high": 0.02},
    "two-sided": {"num_iterations": 3, "delta": 1.4},
    "sequence ratio": {
        "importance_sampling_level": "sequence",
        "loss_type": "grpo",
        "num_iterations": 3,
        "epsilon": 0.01,
        "epsilon_high": 0.01,
    },
    "sequence ratio, dapo": {"importance_sampling_level": "sequence", "num_iterations": 2},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "cut completions left out": {"mask_truncated_completions": True},
    "batch scale": {"scale_rewards": "batch"},
    "several updates a rollout": {"steps_per_generation": 4, "per_device_train_batch_size": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_trls_own(stage, tmp_path, name):
    assert_three_ways(stage, tmp_path, **{"learning_rate": 0.1} | OPTIONS[name])


@pytest.mark.parametrize("name", ["logit_scale", "logits_scaling"])
def test_a_model_that_scales_its_logits_is_trls_own(stage, tmp_path, name):
    assert_three_ways(stage, tmp_path, model="text", scale={name: 0.4})


def test_a_float32_head_under_autocast_is_trls_own(stage, tmp_path):
    """The states are bfloat16 and the head is not, so its product must not be autocast."""
    options = {"cast_lm_head_to_fp32": True, "bf16": True, "steps": 2}
    theirs, ours = (run(stage, tmp_path / str(o), ours=o, **options) for o in (False, True))
    assert_same(theirs, ours, steps=2)


REFUSED = {
    "loss_type 'vespo'": {"loss_type": "vespo"},
    "top_entropy_quantile 0.5": {"top_entropy_quantile": 0.5},
    "entropy_coef": {"entropy_coef": 0.01},
    "off_policy_mask_threshold 0.1": {"off_policy_mask_threshold": 0.1},
    "importance_sampling_level 'sequence'": {
        "loss_type": "sapo",
        "importance_sampling_level": "sequence",
    },
    "delta 1.1": {"delta": 1.1},
    "epsilon_high 0.2": {"loss_type": "cispo", "epsilon_high": 0.2},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_matched_is_refused_by_name(stage, tmp_path, words):
    trainer, _ = make(stage, tmp_path, **REFUSED[words])
    before = trainer.model.forward
    with pytest.raises(ValueError) as caught, patch(trainer):
        pass
    assert f"found {words}" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert trainer.model.forward == before and "_compute_loss" not in vars(trainer)


def test_shards_that_the_head_would_not_see_are_refused_by_name(stage, tmp_path):
    trainer, _ = make(stage, tmp_path)
    trainer.args.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    with pytest.raises(ValueError, match="found DeepSpeed ZeRO stage 3"), patch(trainer):
        pass


class Evaluated(Drawn):
    """Evaluates on what it trains on."""

    def __init__(self, *args, **options):
        super().__init__(*args, eval_dataset=options["train_dataset"], **options)


def test_an_evaluation_is_trls_own(stage, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 8}
    rows, _ = assert_three_ways(stage, tmp_path, kind=Evaluated, **options)
    assert len({row["eval_loss"] for row in rows if "eval_loss" in row}) == 2


def test_trls_own_loss_is_back_after_the_block(stage, tmp_path):
    trainer, _ = make(stage, tmp_path)
    before = trainer.model.forward
    with pytest.raises(ZeroDivisionError), patch(trainer):
        assert trainer.model.forward != before and "_compute_loss" in vars(trainer)
        raise ZeroDivisionError
    assert trainer.model.forward == before and "_compute_loss" not in vars(trainer)


def test_the_trainer_class_is_the_patched_trainer(stage, tmp_path):
    class Ours(Drawn, SectowGRPOTrainer):
        """Completions by a seed, loss by us."""

    trainer, norms = make(stage, tmp_path / "class", kind=Ours)
    trainer.train()
    found = norms.rows, weights_of(trainer)
    assert_same(run(stage, tmp_path / "patch", ours=True), found, steps=4)


def test_the_example_of_the_docs_trains(stage, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "EMBEDDING.md").read_text()
    lines = page.split("## In TRL")[1].split("```python\n")[1].split("```")[0]
    trainer, norms = make(stage, tmp_path / "page")
    exec(lines, {"trainer": trainer})
    found = norms.rows, weights_of(trainer)
    assert_same(run(stage, tmp_path / "patch", ours=True), found, steps=4)


def test_rows_without_a_signal_never_reach_the_head(stage, tmp_path, monkeypatch):
    from sectow_fast.adapters import trl as adapter

    seen = []
    real = adapter.linear_policy_loss

    def watched(*args, **options):
        loss, measured = real(*args, **options)
        seen.append((int(measured["scored"].sum()), int(options["mask"].sum())))
        return loss, measured

    monkeypatch.setattr(adapter, "linear_policy_loss", watched)
    run(stage, tmp_path, ours=True, steps=2)
    scored, live = map(sum, zip(*seen, strict=True))
    assert 0 < scored < 0.85 * live
