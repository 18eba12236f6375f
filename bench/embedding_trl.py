"""One process of bench/test_embedding.py: real TRL steps of a kind, "trl", "ours" or "shared".

It prints JSON.

Completions are drawn by a seed, so both contenders train on the same tokens; only the update is
timed (TRL's `training_step`, forward and backward of a micro-batch).
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from sectow_fast.adapters.trl import patch

PROMPTS, SIZE, TOKENS, STEPS = 4, 8, 32, 3


class Timed(GRPOTrainer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds: list[float] = []
        self.rollouts = 0

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        rng = random.Random(self.rollouts)
        self.rollouts += 1
        size = self.model.config.vocab_size
        return [[rng.randrange(3, size) for _ in range(TOKENS)] for _ in prompt_ids], None

    def training_step(self, *args: Any, **options: Any) -> Any:
        prepared = self._prepare_inputs

        def untimed(inputs: Any) -> Any:
            began = time.perf_counter()
            out = prepared(inputs)
            self.seconds[-1] -= time.perf_counter() - began
            return out

        self._prepare_inputs = untimed
        self.seconds.append(0.0)
        began = time.perf_counter()
        out = super().training_step(*args, **options)
        self.seconds[-1] += time.perf_counter() - began
        self._prepare_inputs = prepared
        return out


class Norm(TrainerCallback):
    """The last update's gradient, which must be the same for both contenders."""

    value = 0.0

    def on_pre_optimizer_step(self, *args: Any, model: Any = None, **rest: Any) -> None:
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        self.value = float(torch.stack(norms).norm())


def main(kind: str, vocabulary: int, live: float, prompt: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    )

    def reward(completion_ids: Any, group: list[int], **rest: Any) -> list[float]:
        return [float(i % 2) if g < live * PROMPTS else 1.0 for i, g in enumerate(group)]

    rng, norm = random.Random(1), Norm()
    prompts = [" ".join(f"w{rng.randrange(3, vocabulary)}" for _ in range(prompt)) for _ in "abcd"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=PROMPTS * SIZE,
                num_generations=SIZE,
                max_completion_length=TOKENS,
                max_steps=STEPS,
                shuffle_dataset=False,
                gradient_checkpointing=False,
                learning_rate=0.0,
                max_grad_norm=0.0,
                optim="sgd",
                report_to=[],
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts, "group": list(range(PROMPTS))}),
            processing_class=tokenizer,
            callbacks=[norm],
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.ExitStack() as stack:
            if kind != "trl":
                stack.enter_context(patch(trainer, shared_prefix=kind == "shared"))
            trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = {
        "seconds": statistics.median(trainer.seconds[1:]),
        "peak_mib": (peak - before) / 1024,
        "gradient_norm": norm.value,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
