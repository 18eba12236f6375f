"""A Qwen2.5-VL with random weights, made where it is used, and the groups of a GRPO step for it.

The shape is that of the published 3B's config.json, or a tiny one for a rehearsal. Tokens are
bytes, so a text of n letters is n tokens; the vocabulary's other ids have weights and no words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scene import Pictures, Scene
from tiny_models import QWEN_SPECIAL, byte_tokenizer, qwen_ids, save_qwen_processor

from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.processor import load_processor
from sectow_fast.types import Case, Completion, Group, Prompt, Reward

TOKEN = 28  # pixels along an image token's edge: two patches of 14
LETTERS = 26


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a configuration of transformers is made from; see `Scene` for tokens."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    rope: tuple[int, int, int]
    tower_hidden: int
    tower_inner: int
    tower_layers: int
    tower_heads: int
    whole_blocks: tuple[int, ...]  # tower blocks that attend over the whole image

    def config(self, tokenizer: Any) -> Any:
        """The transformers configuration; special tokens have the tokenizer's ids."""
        import transformers

        return transformers.Qwen2_5_VLConfig(
            text_config=dict(
                vocab_size=self.vocabulary,
                hidden_size=self.hidden,
                intermediate_size=self.inner,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.kv_heads,
                max_position_embeddings=32_768,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": list(self.rope),
                },
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=True,
            ),
            vision_config=dict(
                depth=self.tower_layers,
                hidden_size=self.tower_hidden,
                intermediate_size=self.tower_inner,
                num_heads=self.tower_heads,
                out_hidden_size=self.hidden,
                patch_size=TOKEN // 2,
                window_size=4 * TOKEN,
                fullatt_block_indexes=list(self.whole_blocks),
            ),
            tie_word_embeddings=True,
            **qwen_ids(tokenizer),
        )


THREE_B = Shape(
    vocabulary=151_936,
    hidden=2048,
    inner=11_008,
    layers=36,
    heads=16,
    kv_heads=2,
    rope=(16, 24, 24),
    tower_hidden=1280,
    tower_inner=3420,
    tower_layers=32,
    tower_heads=16,
    whole_blocks=(7, 15, 23, 31),
)
TINY = Shape(
    vocabulary=320,
    hidden=64,
    inner=128,
    layers=2,
    heads=4,
    kv_heads=2,
    rope=(2, 3, 3),
    tower_hidden=64,
    tower_inner=128,
    tower_layers=2,
    tower_heads=4,
    whole_blocks=(1,),
)


@dataclass(frozen=True, kw_only=True)
class QwenScene(Scene):
    """A `Scene` of this model. prompt: tokens, of which side x side are its picture's; completion:
    the longest one, the shortest has an eighth of it. dtype: of the weights."""

    kind: str = "qwen2.5-vl"
    shape: Shape
    edge: int  # image tokens along a picture's edge
    dtype: torch.dtype

    @property
    def side(self) -> int:
        return self.edge

    @cached_property
    def lengths(self) -> list[list[int]]:
        """Tokens of each completion, by group: from an eighth of `completion` to all of it."""
        rng = np.random.default_rng(3)
        low = max(1, self.completion // 8)
        return rng.integers(low, self.completion + 1, (self.prompts, self.group_size)).tolist()

    @property
    def tokens(self) -> int:
        """Completion tokens of an update; those that are drawn are counted where they are."""
        return sum(map(sum, self.lengths))

    def pictures(self) -> Pictures:
        return Pictures(self.prompts, self.edge * TOKEN)

    @cached_property
    def cases(self) -> list[Case]:
        rng = np.random.default_rng(0)
        around = len(self.codec(self.pictures()).encode([self._case(0, "")])[0].ids)
        letters = [chr(ord("a") + i) for i in range(LETTERS)]
        texts = [rng.choice(letters, self.prompt - around) for _ in range(self.prompts)]
        return [self._case(i, "".join(text)) for i, text in enumerate(texts)]

    def _case(self, number: int, text: str) -> Case:
        return Case(id=str(number), text=text, label="harmless", image=str(number))

    @cached_property
    def _processor(self) -> Any:
        with TemporaryDirectory() as folder:
            self.describe(Path(folder))
            return load_processor(Path(folder))

    def _config(self) -> Any:
        config = self.shape.config(byte_tokenizer())
        config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
        config.dtype = self.dtype
        return config

    def describe(self, folder: Path) -> None:
        """The folder of a published checkpoint without its weights; pictures keep their size."""
        self._config().save_pretrained(folder)
        save_qwen_processor(
            folder, patch=TOKEN // 2, shortest=TOKEN**2, longest=(self.edge * TOKEN) ** 2
        )

    def codec(self, images: Any) -> ChatCodec:
        """Where replies are drawn, no token ends them early or announces a picture. Ids without a
        word may be drawn: 150,000 bans would travel with every request to an engine."""
        codec = ChatCodec(self._processor, images)
        special = self._processor.tokenizer.convert_tokens_to_ids(list(QWEN_SPECIAL))
        codec.banned_ids = tuple(sorted({*codec.banned_ids, *special})) if self.drawn else ()
        return codec

    def model(self) -> Any:
        """Fresh weights, the same at every call, made on the device; recomputed in backward."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        config = self._config()
        before = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                model = Qwen2_5_VLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def save(self, model: Any, folder: Path) -> None:
        """`model` as a published checkpoint has it, with its processor."""
        self.describe(folder)
        model.save_pretrained(folder)

    def groups(self, prompts: list[Prompt]) -> list[Group]:
        rng = np.random.default_rng(1)
        low = self._processor.tokenizer.convert_tokens_to_ids("a")
        made = []
        for i, (prompt, lengths) in enumerate(zip(prompts, self.lengths, strict=True)):
            done = []
            for length in lengths:
                ids = tuple(rng.integers(low, low + LETTERS, length).tolist())
                done.append(Completion(ids=ids, logprobs=(0.0,) * length, finish_reason="length"))
            rewards = tuple(Reward(total=self.reward(i, j)) for j in range(len(done)))
            made.append(Group(prompt=prompt, completions=tuple(done), rewards=rewards))
        return made
