"""Real model classes through the replier: the model's own answers, whatever shares a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import save_qwen2_5_vl
from tiny_others import OTHERS

from sectow_fast.data.processor import load_processor
from sectow_fast.evaluation.repliers import Ask, TransformersReplier, placeholder_ids

SAVE = {"qwen2.5-vl": save_qwen2_5_vl} | OTHERS


class Squares:
    """Pictures by number, of different sizes and colours."""

    def open(self, key: str) -> Image.Image:
        return Image.new("RGB", (60 + 20 * int(key), 90), (40 * int(key) % 256, 90, 10))


def asks(pictures: int, count: int = 5) -> list[Ask]:
    return [
        Ask(
            id=f"{pictures}-{i}",
            parts=(
                *(("image", str(i + at)) for at in range(pictures)),
                ("text", "tell me of bado " * (i + 1)),
            ),
            images=Squares(),
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module", params=SAVE)
def folder(request, tmp_path_factory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param) / "model")


def test_replies_do_not_depend_on_the_batch(folder):
    mixed = [one for count in (0, 1, 2) for one in asks(count)]
    found = []
    for batch in (1, 4):
        replier = TransformersReplier(folder, batch=batch, max_new_tokens=6, dtype="float32")
        replies = dict(replier.reply(mixed))
        assert sorted(replies) == list(range(len(mixed)))
        found.append([replies[i].text for i in range(len(mixed))])
    # Near ties of a random model may fall otherwise where padding changes the sums' order.
    assert sum(a == b for a, b in zip(*found, strict=True)) >= len(mixed) - 1
    assert len(set(found[0])) > 3


def test_a_reply_is_the_models_own_greedy_choice(folder):
    from transformers import AutoModelForImageTextToText

    (ask,) = asks(1, count=1)
    replier = TransformersReplier(folder, batch=1, max_new_tokens=4, dtype="float32")
    ((_, reply),) = replier.reply([ask])
    processor = load_processor(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    content = [{"type": "image"}, {"type": "text", "text": ask.text}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(
        text=[text], images=[ask.pictures()], add_special_tokens=False, return_tensors="pt"
    )
    names = processor.tokenizer
    banned = {*placeholder_ids(model.config), names.pad_token_id, names.unk_token_id} - {None}
    banned = sorted(banned - {names.eos_token_id})
    assert banned
    end = processor.tokenizer.eos_token_id
    told: list[int] = []
    with torch.inference_mode():
        for _ in range(4):
            logits = model(**inputs).logits[0, -1]
            logits[banned] = -torch.inf
            token = int(logits.argmax())
            if token == end:
                break
            told.append(token)
            # A full forward each time: no cache, no position but the model's own.
            for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
                if name in inputs:
                    value = {"input_ids": token, "attention_mask": 1}.get(name, 0)
                    more = torch.tensor([[value]])
                    inputs[name] = torch.cat([inputs[name], more], 1)
    assert reply.text == processor.tokenizer.decode(told, skip_special_tokens=True).strip()
    assert reply.prompt_tokens > 10 and not reply.unknown_words
