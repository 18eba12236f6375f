"""The sandbox's model: a tiny LLaVA of transformers' own classes, its tokenizer and processor.

Both embedded worlds have it; they differ in words and in the size of pictures.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from sectow_fast.data.images import ImageStore
from sectow_fast.protocols import World
from sectow_fast.types import Attack, Case

SPECIAL = ("<pad>", "</s>", "<image>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


class TinyWorld(World, Protocol):
    """A world that the tiny model is built for.

    side, patch: of its square pictures, in pixels. refusal: how its models refuse.
    """

    side: int
    patch: int
    refusal: str
    images: ImageStore
    measures: Mapping[str, str]

    def vocabulary(self) -> list[str]:
        """Every word of the world; a word's place is its token id, less the special ones."""
        ...

    def recipe(self, case: Case) -> Sequence[str]:
        """What the goal of an unsafe case is made of."""
        ...


class TinyLessons(Protocol):
    """What the phases of a run on such a world teach; each method is a `Lesson`."""

    def caption(self, rng: random.Random) -> tuple[Case, str]: ...

    def instruct(self, rng: random.Random) -> tuple[Case, str]: ...

    def attacker(self, rng: random.Random) -> tuple[Case, str]: ...

    def safe(
        self, rng: random.Random, pool: Sequence[Attack], *, harmless_share: float
    ) -> tuple[Case, str]: ...


def build_processor(world: TinyWorld) -> Any:
    """A LlavaProcessor over a word-level tokenizer of the world's vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = [*SPECIAL, *world.vocabulary()]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    # No torchvision: its published wheel does not import beside a CPU torch.
    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": world.side, "width": world.side},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=world.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def model_config(world: TinyWorld, *, hidden_size: int, layers: int) -> Any:
    """A CLIP tower, a Qwen2 decoder, a tied head.

    Larger initialisation than the default (tower x3, decoder 0.06) is what makes it learn in
    minutes.
    """
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config

    tower = 96
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=CLIPVisionConfig(
            hidden_size=tower,
            intermediate_size=2 * tower,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=world.side,
            patch_size=world.patch,
            projection_dim=tower,
            initializer_factor=3.0,
        ),
        text_config=Qwen2Config(
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=len(SPECIAL) + len(world.vocabulary()),
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.06,
            use_sliding_window=False,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        ),
        image_token_index=2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def build_model(world: TinyWorld, *, seed: int, hidden_size: int, layers: int) -> Any:
    """A LlavaForConditionalGeneration of `model_config` with fresh weights."""
    from transformers import LlavaForConditionalGeneration

    config = model_config(world, hidden_size=hidden_size, layers=layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config)


def save_model(
    model: Any,
    processor: Any,
    folder: Path,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """A folder that AutoProcessor and AutoModelForImageTextToText load; it appears whole.

    weights: see `Stage.save`.
    """
    part = folder.with_name(f".{folder.name}.part")
    model.save_pretrained(part, state_dict=weights)
    processor.save_pretrained(part)
    if folder.exists():
        _remove(folder)
    part.rename(folder)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
