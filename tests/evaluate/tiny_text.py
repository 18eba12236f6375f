"""Models of words alone in tiny random configurations, saved as real checkpoints.

Each has another kind of chat template, as published ones have: strings alone with a system turn of
the template's own; strings or lists; lists alone; no system turn at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_models import byte_tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT = dict(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    bos_token_id=None,
    eos_token_id=2,
    pad_token_id=0,
)
STRINGS = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EITHER = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LISTS = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{{ c['text'] }}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)


def llama() -> Any:
    import transformers as t

    return t.LlamaForCausalLM(t.LlamaConfig(**TEXT, tie_word_embeddings=True))


def qwen2() -> Any:
    import transformers as t

    return t.Qwen2ForCausalLM(t.Qwen2Config(**TEXT, tie_word_embeddings=False))


def qwen3() -> Any:
    import transformers as t

    return t.Qwen3ForCausalLM(t.Qwen3Config(**TEXT, head_dim=8, tie_word_embeddings=True))


def gemma3_text() -> Any:
    """With windows, and a cap on its logits as Gemma 2's text class has."""
    import transformers as t

    more = dict(head_dim=8, sliding_window=16, final_logit_softcapping=3.0)
    kinds = ["sliding_attention", "full_attention"]
    return t.Gemma3ForCausalLM(t.Gemma3TextConfig(**TEXT, **more, layer_types=kinds))


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "llama": (llama, STRINGS),
    "qwen2": (qwen2, STRINGS),
    "qwen3": (qwen3, EITHER),
    "gemma3": (gemma3_text, LISTS),
}


def tokenizer(template: str | None = EITHER, **names: Any) -> Any:
    """Bytes and three control tokens."""
    names = names or {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return byte_tokenizer(SPECIAL, chat_template=template, **names)


def save_text(folder: Path, kind: str) -> Path:
    """One of `MODELS` with its tokenizer and template."""
    import torch

    make, template = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder
