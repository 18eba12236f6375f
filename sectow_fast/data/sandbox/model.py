"""The sandbox's model: a tiny LLaVA of transformers' own classes, its tokenizer and processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sectow_fast.data.sandbox.pictures import SIDE
from sectow_fast.data.sandbox.world import SandboxWorld

PATCH = 14  # four image tokens; patch 7 costs 1.7x the time and learns no better
SPECIAL = ("<pad>", "</s>", "<image>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def build_processor(world: SandboxWorld) -> Any:
    """A LlavaProcessor over a word-level tokenizer of the world's vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = [*SPECIAL, *world.requests.vocabulary()]
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
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def model_config(world: SandboxWorld, *, hidden_size: int, layers: int) -> Any:
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
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=tower,
            initializer_factor=3.0,
        ),
        text_config=Qwen2Config(
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=len(SPECIAL) + len(world.requests.vocabulary()),
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


def build_model(world: SandboxWorld, *, seed: int, hidden_size: int, layers: int) -> Any:
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
