"""Other real classes in tiny random configurations, over the same byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_models import QWEN_TEMPLATE, byte_tokenizer, qwen_ids, save_qwen_processor

LLAVA_TEMPLATE = QWEN_TEMPLATE.replace(
    "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>"
)
TEXT = dict(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    bos_token_id=None,
)


def save_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: interleaved M-RoPE, features of the tower's layers go into the decoder's."""
    import transformers

    tokenizer = byte_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = transformers.Qwen3VLConfig(
        text_config=TEXT
        | dict(
            head_dim=16,
            rope_parameters=rope | {"mrope_interleaved": True},
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(
            depth=2,
            hidden_size=64,
            out_hidden_size=64,
            intermediate_size=128,
            num_heads=4,
            patch_size=16,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        **qwen_ids(tokenizer),
    )
    _save(transformers.Qwen3VLForConditionalGeneration, config, folder)
    save_qwen_processor(folder, patch=16, shortest=32 * 32 * 4, longest=32 * 32 * 16)
    return folder


def save_llava(folder: Path) -> Path:
    """LLaVA: a CLIP tower and a Llama decoder."""
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = byte_tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=32,
        ),
        text_config=transformers.LlamaConfig(
            **TEXT, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ),
        image_token_index=qwen_ids(tokenizer)["image_token_id"],
        vision_feature_layer=-1,
    )
    _save(transformers.LlavaForConditionalGeneration, config, folder)
    side = {"height": 28, "width": 28}
    transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)
    return folder


GEMMA_SPECIAL = (
    *("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
GEMMA_TEMPLATE = (
    "<bos>{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def save_gemma3(folder: Path) -> Path:
    """Gemma 3: sliding windows, and picture tokens that see each other both ways."""
    import transformers
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    names = {"boi_token": 5, "eoi_token": 6, "image_token": 7}
    tokenizer = byte_tokenizer(
        GEMMA_SPECIAL,
        eos_token="<eos>",
        pad_token="<pad>",
        bos_token="<bos>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        extra_special_tokens={name: GEMMA_SPECIAL[at] for name, at in names.items()},
    )
    config = transformers.Gemma3Config(
        text_config=TEXT
        | dict(
            head_dim=16,
            sliding_window=512,
            layer_types=["sliding_attention", "full_attention"],
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        ),
        vision_config=dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        mm_tokens_per_image=4,
        boi_token_index=5,
        eoi_token_index=6,
        image_token_index=7,
        tie_word_embeddings=False,
    )
    _save(transformers.Gemma3ForConditionalGeneration, config, folder)
    transformers.Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=4,
    ).save_pretrained(folder)
    return folder


def _save(make: Any, config: Any, folder: Path) -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.1)
    model.save_pretrained(folder)


OTHERS: dict[str, Callable[[Path], Path]] = {
    "qwen3-vl": save_qwen3_vl,
    "llava": save_llava,
    "gemma3": save_gemma3,
}
