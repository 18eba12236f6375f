"""A GRPO step of a chosen shape: G completions of C tokens for each of some prompts of P tokens.

Two models: `llava`, the sandbox's tiny LLaVA with a picture in every prompt (the largest square of
tokens that leaves room for 15 words), and `qwen2`, a text-only Qwen2 of 9.4 M parameters. Words,
pictures and completions are random, from a fixed seed; all completions have the full length, which
is the best case for padding.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from sectow_fast.config import DefendConfig
from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.sandbox.model import SPECIAL, build_model, build_processor
from sectow_fast.types import Case, Completion, Group, Prompt, Reward

PATCH = 14  # pixels: a picture token is a square of so many
WORDS = {"llava": 400, "qwen2": 4096 - len(SPECIAL) - 2}
FEWEST = 15  # words beside a picture
AROUND = 2  # tokens of the chat template: "user", "assistant"


class Vocabulary:
    """What `build_processor` and `build_model` want of a world."""

    side, patch = 2 * PATCH, PATCH

    def __init__(self, words: int) -> None:
        self.words = [f"w{i}" for i in range(words)]

    def vocabulary(self) -> list[str]:
        return ["user", "assistant", *self.words]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """`prompts` groups of `group_size`; `prompt` and `completion` are tokens. See `work.Work`.

    drawn: completions are sampled (a whole step), not given (an update).
    """

    kind: str
    group_size: int
    prompt: int
    completion: int
    prompts: int
    tokens_per_batch: int
    device: str = "cpu"
    drawn: bool = False
    strings = False  # whether the chat template takes strings and no parts

    @property
    def side(self) -> int:
        """Patches along a picture's edge, 0 without one."""
        return math.isqrt(self.prompt - AROUND - FEWEST) if self.kind == "llava" else 0

    @property
    def completions(self) -> int:
        return self.prompts * self.group_size

    @property
    def live_groups(self) -> int:
        return self.prompts

    @property
    def tokens(self) -> int:
        """Completion tokens of a step."""
        return self.completions * self.completion

    @property
    def config(self) -> DefendConfig:
        # The completions are random words, without log-probs of a rollout: no mismatch gate.
        return DefendConfig(
            prompts=self.prompts,
            group_size=self.group_size,
            max_new_tokens=self.completion,
            tokens_per_batch=self.tokens_per_batch,
            mismatch_max=1e6,
            mismatch_token=None,
        )

    def clock(self) -> float:
        """Seconds of processor time (one thread), which other work on the machine affects less; on
        CUDA seconds of wall time, with the device's queue empty."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def reward(self, group: int, completion: int) -> float:
        return float(completion % 2)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(WORDS[self.kind])

    @cached_property
    def cases(self) -> list[Case]:
        rng = np.random.default_rng(0)
        count = self.prompt - AROUND - self.side**2
        texts = [" ".join(rng.choice(self.vocabulary.words, count)) for _ in range(self.prompts)]
        return [
            Case(id=str(i), text=text, label="harmless", image=str(i) if self.side else None)
            for i, text in enumerate(texts)
        ]

    def pictures(self) -> Pictures:
        return Pictures(self.prompts, self.side * PATCH)

    @cached_property
    def _processor(self) -> Any:
        processor = build_processor(self.vocabulary)
        edge = max(self.side, 1) * PATCH
        processor.image_processor.size = {"height": edge, "width": edge}
        return processor

    @property
    def processor(self) -> Any:
        """What TRL takes: a processor, or for text-only models a tokenizer with its chat
        template."""
        if self.side:
            return self._processor
        tokenizer = copy.deepcopy(self._processor.tokenizer)
        tokenizer.chat_template = self._processor.chat_template
        return tokenizer

    def codec(self, images: Any) -> ChatCodec:
        """TRL scores over the whole vocabulary, so no token is banned in an update. Where replies
        are drawn, special tokens are banned, so that none ends early."""
        codec = ChatCodec(self._processor, images)
        codec.banned_ids = tuple(range(len(SPECIAL))) if self.drawn else ()
        return codec

    def model(self) -> Any:
        """Fresh weights, the same at every call."""
        make = _llava if self.kind == "llava" else _qwen2
        return make(self).to(self.device)

    def random_ids(self, shape: tuple[int, ...]) -> np.ndarray:
        """Ids of words, the same at every call."""
        low, high = len(SPECIAL) + AROUND, len(SPECIAL) + AROUND + WORDS[self.kind]
        return np.random.default_rng(1).integers(low, high, shape)

    def groups(self, prompts: Sequence[Prompt]) -> list[Group]:
        drawn = self.random_ids((self.prompts, self.group_size, self.completion)).tolist()
        return [
            Group(
                prompt=prompt,
                completions=tuple(
                    Completion(ids=tuple(ids), logprobs=(0.0,) * len(ids), finish_reason="length")
                    for ids in row
                ),
                rewards=tuple(Reward(total=self.reward(i, j)) for j in range(len(row))),
            )
            for i, (prompt, row) in enumerate(zip(prompts, drawn, strict=True))
        ]


class Pictures:
    """Noise by key, an `ImageStore`."""

    def __init__(self, count: int, edge: int) -> None:
        rng = np.random.default_rng(2)
        self.made = {
            str(i): Image.fromarray(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8))
            for i in range(count if edge else 0)
        }

    def open(self, key: str) -> Image.Image:
        return self.made[key]

    def size(self, key: str) -> tuple[int, int]:
        return self.made[key].size


def _llava(scene: Scene) -> Any:
    """The sandbox's model at its default size, with this scene's pictures and positions."""
    from transformers import LlavaForConditionalGeneration

    config = build_model(scene.vocabulary, seed=0, hidden_size=128, layers=3).config
    config.vision_config.image_size = scene.side * PATCH
    config.text_config.max_position_embeddings = 4096
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config)


def _qwen2(scene: Scene) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=len(SPECIAL) + AROUND + WORDS["qwen2"],
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            use_sliding_window=False,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
