"""Random vision-language models of tiny configurations, saved as real checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(special: tuple[str, ...] = QWEN_SPECIAL, **names: Any) -> Any:
    """Byte-level tokens, no merges: 256 and the special ones. Every text can be written.

    names: which of them have a part to play; none: Qwen's.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*special, *letters]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, special=True) for word in special])
    if not names:
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        names["additional_special_tokens"] = [word for word in special if word != "<|im_end|>"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """What the configuration of every Qwen-VL calls the tokens around and for a picture."""
    words = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(word) for name, word in words.items()}


def save_qwen_processor(folder: Path, *, patch: int, shortest: int, longest: int) -> None:
    """The files of a published checkpoint that make its inputs; the class of the processor is found
    by the model's configuration. patch: pixels along an edge. shortest, longest: the least and the
    most pixels of a picture, which is scaled to fit."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": shortest, "longest_edge": longest}
    Qwen2VLImageProcessorPil(patch_size=patch, size=size).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(QWEN_TEMPLATE)


def save_qwen2_5_vl(folder: Path, *, seed: int = 0, taught: bool = False) -> Path:
    """Qwen2.5-VL: 0.3 M parameters, M-RoPE, one windowed vision block of two.

    taught: it says "sorry" or "use it" at random, so that a reward has something to choose from.
    """
    import torch
    import transformers

    tokenizer = byte_tokenizer()
    text = dict(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    vision = dict(
        depth=2,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        out_hidden_size=64,
        patch_size=14,
        window_size=112,
        fullatt_block_indexes=[1],
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=False,
        **qwen_ids(tokenizer),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.1)
    if taught:
        _teach(model, tokenizer, seed)
    model.save_pretrained(folder)
    save_qwen_processor(folder, patch=14, shortest=28 * 28 * 4, longest=28 * 28 * 16)
    return folder


def _teach(model: Any, tokenizer: Any, seed: int) -> None:
    import random

    import torch

    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(80):
            asked = "".join(rng.choices("abcdefghijklmnoprstu ", k=rng.randint(10, 60)))
            prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
            start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            told = [tokenizer(f"{w}<|im_end|>")["input_ids"] for w in ("sorry", "use it")]
            rows = [start + one for one in told]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            labels = ids.clone()
            labels[:, : len(start)] = -100
            mask = torch.zeros_like(ids)
            for at, row in enumerate(rows):
                labels[at, len(row) :] = -100
                mask[at, : len(row)] = 1
            kinds = torch.zeros_like(ids)
            model(
                input_ids=ids, attention_mask=mask, labels=labels, mm_token_type_ids=kinds
            ).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
