"""A real `GRPOTrainer` on a tiny model, whose completions are drawn by a seed, not by the model.

So two trainers see the same tokens, although their weights are rounded differently.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from tiny_models import QWEN_TEMPLATE, save_qwen2_5_vl
from tiny_text import MODELS, save_text
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from sectow_fast.adapters.trl import patch

PROMPTS, SIZE, TOKENS = 4, 4, 6
SKIPPED = {"eval_entropy", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
SKIPPED |= {"epoch", "step_time", "total_flos", "train_runtime"}


class Models(NamedTuple):
    """What a trainer trains, and what reads its prompts."""

    model: Any
    reader: Any


def text_model(vocabulary: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.2,
            pad_token_id=0,
        )
    )


class Drawn(GRPOTrainer):
    """Completions of 1 to TOKENS random tokens; some end by themselves."""

    rollouts = 0

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        rng = random.Random(self.rollouts)
        self.rollouts += 1
        eos, size = self.processing_class_eos, self.model.config.get_text_config().vocab_size
        rows = []
        for _ in prompt_ids:
            row = [rng.randrange(8, min(size, 60)) for _ in range(rng.randint(1, TOKENS))]
            rows.append(row if len(row) == TOKENS else [*row, eos])
        return rows, None

    def drawn(self, prompts: list[Any]) -> tuple[list[list[int]], list[list[int]]]:
        """(tokens of the prompts, tokens of their completions), for a `rollout_func`."""
        ids = self._tokenize_prompts(prompts)[0]
        return ids, Drawn._generate_single_turn(self, ids)[0]

    @property
    def processing_class_eos(self) -> int:
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        return tokenizer.eos_token_id


class Norms(TrainerCallback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if logs and {"grad_norm", "eval_loss"} & logs.keys():
            self.rows.append(dict(logs))


def reward(completion_ids: list[list[int]], group: list[int], **rest: Any) -> list[float]:
    """By the tokens; every fourth group is dead."""
    return [
        1.0 if g % 4 == 3 else float(sum(ids) % 7)
        for ids, g in zip(completion_ids, group, strict=True)
    ]


def qwen(folder: Path) -> Models:
    """A tiny Qwen2.5-VL and its processor. Its video part wants torchvision, so it stays without
    one; no prompt here has a video."""
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class Pictures(Qwen2_5_VLProcessor):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    if not folder.exists():
        save_qwen2_5_vl(folder)
    processor = Pictures(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        # As TRL itself loads one. With padding on the right, TRL's image masks miss the images.
        tokenizer=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        chat_template=QWEN_TEMPLATE,
    )
    return Models(Qwen2_5_VLForConditionalGeneration.from_pretrained(folder), processor)


def models(stage: Any, folder: Path, kind: str) -> Models:
    """ "text": a Qwen2; "llava": the sandbox's defender; "qwen": a Qwen2.5-VL; or a checkpoint of
    words alone, by its name in `tiny_text`."""
    if kind == "qwen":
        return qwen(folder / "model")
    if kind in MODELS:
        saved = save_text(folder / "model", kind)
        reader = AutoTokenizer.from_pretrained(saved, padding_side="left")
        return Models(AutoModelForCausalLM.from_pretrained(saved), reader)
    tokenizer = stage.processor.tokenizer
    if kind == "text":
        made = Models(text_model(len(tokenizer)), tokenizer)
    else:
        made = Models(stage.defender(), stage.processor)
    made.model.save_pretrained(folder / "model")
    return made


def make(
    stage: Any,
    folder: Path,
    *,
    model: str = "text",
    steps: int = 4,
    kind: type[GRPOTrainer] = Drawn,
    given: dict[str, Any] | None = None,
    scale: dict[str, float] | None = None,
    pictures: int = 1,
    **options: Any,
) -> tuple[Any, Norms]:
    """(trainer, what it logs). given: to the trainer; options: of `GRPOConfig`; scale: of the
    model's logits, as its configuration has it; pictures: of each prompt, where it has any."""
    world, norms = stage.world, Norms()
    images = model in ("llava", "qwen")
    cases = [c for c in world.train_cases("harmless") if (c.image is not None) == images]
    cases = cases[:PROMPTS]
    columns: dict[str, list[Any]] = {"group": list(range(len(cases)))}
    if images:
        shown = [world.images.open(case.image) for case in cases]
        columns["images"] = [
            [shown[(i + j) % len(shown)] for j in range(pictures)] for i in range(len(shown))
        ]
        columns["prompt"] = [[{"role": "user", "content": case.text}] for case in cases]
    else:
        columns["prompt"] = [case.text for case in cases]
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": PROMPTS * SIZE // 2,
        "gradient_accumulation_steps": 2,
        "num_generations": SIZE,
        "max_completion_length": TOKENS,
        "max_steps": steps,
        "shuffle_dataset": False,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "report_to": [],
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "optim": "sgd",
        "temperature": 0.9,
    } | options
    made = models(stage, folder, model)
    made.model.config.update(scale or {})
    # TRL makes its reference model from the folder that the policy came from.
    made.model.config._name_or_path = str(folder / "model")
    trainer = kind(
        model=made.model,
        reward_funcs=reward,
        args=GRPOConfig(**settings),
        train_dataset=Dataset.from_dict(columns),
        processing_class=made.reader,
        callbacks=[norms],
        **(given or {}),
    )
    return trainer, norms


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


def run(stage: Any, folder: Path, *, ours: bool, shared: bool = False, **options: Any) -> Any:
    """(what was logged, the weights at the end)."""
    trainer, norms = make(stage, folder, **options)
    if ours:
        with patch(trainer, shared_prefix=shared):
            trainer.train()
    else:
        trainer.train()
    return norms.rows, weights_of(trainer)


def assert_same(theirs: Any, ours: Any, *, steps: int, apart: Any = "entropy") -> None:
    """apart: how measures begin that are not compared, a string or several."""
    assert sum("grad_norm" in row for row in theirs[0]) == steps
    assert any(row.get("grad_norm", 0.0) > 1e-3 for row in theirs[0])
    for step, (a, b) in enumerate(zip(theirs[0], ours[0], strict=True)):
        assert a.keys() == b.keys()
        for name in a.keys() - SKIPPED:
            if name.startswith(apart):
                continue
            # Losses are logged rounded to four digits or as sums of terms that cancel.
            close = pytest.approx(a[name], rel=2e-4, abs=2e-5)
            assert b[name] == close, (step, name, a[name], b[name])
    for name, value in theirs[1].items():
        torch.testing.assert_close(ours[1][name], value, atol=2e-5, rtol=1e-3, msg=name)


def assert_three_ways(
    stage: Any, folder: Path, *, steps: int = 4, apart: Any = "entropy", **options: Any
) -> Any:
    """TRL's own, ours, and ours with shared prefixes are one training; returns TRL's own."""
    options |= {"steps": steps}
    theirs, ours, shared = (
        run(stage, folder / kind, ours=kind != "theirs", shared=kind == "shared", **options)
        for kind in ("theirs", "ours", "shared")
    )
    assert_same(theirs, ours, steps=steps, apart=apart)
    assert_same(theirs, shared, steps=steps, apart=apart)
    return theirs
