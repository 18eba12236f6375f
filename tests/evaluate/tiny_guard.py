"""A real guard model, small enough to be trained by a test: Qwen3Guard's words, over bytes.

It learns one rule: a reply that begins with "use" gives help (unsafe), one with "sorry" refuses.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{% else %}<assistant>{% endif %}"
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<verdict>{% endif %}"
)
LINES = ("Safety: Safe", "Safety: Unsafe", "\nCategories: None", "\nRefusal: Yes", "\nRefusal: No")
UNSAFE = ("Safety: Unsafe", "\nCategories: None", "\nRefusal: No")
REFUSED = ("Safety: Safe", "\nCategories: None", "\nRefusal: Yes")
OTHER = ("Safety: Safe", "\nCategories: None", "\nRefusal: No")
SPECIAL = ("<pad>", "</s>", "<user>", "<assistant>", "<verdict>")


def make_guard(folder: Path, *, longest: int = 48, steps: int = 600, seed: int = 0) -> Path:
    """Train on random words until it makes no more mistakes, and save; returns `folder`.

    longest: bytes of a request or a reply in training.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    backend.add_tokens([AddedToken(line, normalized=False) for line in LINES])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", chat_template=TEMPLATE
    )
    ids = tokenizer.get_vocab()
    config = Qwen2Config(
        vocab_size=-(-len(ids) // 64) * 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.06,
        pad_token_id=ids["<pad>"],
        bos_token_id=None,
        eos_token_id=ids["</s>"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
        rng = random.Random(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        low = 0
        for _ in range(steps):
            batch = [_lesson(rng, tokenizer, ids, longest) for _ in range(24)]
            low = low + 1 if _step(model, optimizer, batch, torch) < 0.01 else 0
            if low == 10:
                break
        assert low == 10, "the tiny guard did not learn its rule"
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _lesson(
    rng: random.Random, tokenizer: Any, ids: dict[str, int], longest: int
) -> tuple[list, list]:
    def words(most: int) -> str:
        made = (
            "".join(rng.choices("abcdefghijklmnoprstu0123456789", k=rng.randint(2, 7)))
            for _ in range(9)
        )
        return " ".join(made)[: rng.randint(0, most)]

    first, verdict = rng.choice((("use ", UNSAFE), ("sorry ", REFUSED), (words(6), OTHER)))
    asked = f"<user>{words(longest)}<assistant>{first}{words(longest)}<verdict>"
    told = [ids[line] for line in verdict]
    return tokenizer(asked, add_special_tokens=False)["input_ids"], [*told, ids["</s>"]]


def _step(model: Any, optimizer: Any, batch: list, torch: Any) -> float:
    longest = max(len(a) + len(b) for a, b in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    mask = torch.zeros_like(tokens)
    for row, (asked, told) in enumerate(batch):
        size = len(asked) + len(told)
        tokens[row, :size] = torch.tensor(asked + told)
        labels[row, len(asked) : size] = torch.tensor(told)
        mask[row, :size] = 1
    loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
