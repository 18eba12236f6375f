"""Models of words alone: Llama, Qwen2, Qwen3 and Gemma 3 by the evaluation's own way."""

from __future__ import annotations

import pytest
import torch
from tiny_text import MODELS

from sectow_fast.evaluation.repliers import Ask, TransformersReplier


def asks(count):
    return [
        Ask(id=str(i), parts=(("text", "tell me of bado " * (i + 1)),), images=None)
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", MODELS)
def test_a_reply_is_the_models_own_greedy_choice(texts, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    replier = TransformersReplier(texts[kind], batch=4, max_new_tokens=5, dtype="float32")
    found = dict(replier.reply(asks(3)))
    model = AutoModelForCausalLM.from_pretrained(texts[kind], dtype="float32").eval()
    names = AutoTokenizer.from_pretrained(texts[kind])
    for i, ask in enumerate(asks(3)):
        words = ask.text
        content = [{"type": "text", "text": words}] if kind == "gemma3" else words
        ids = names.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
        )
        assert words in names.decode(ids) and "'" not in names.decode(ids)
        told: list[int] = []
        with torch.inference_mode():
            while len(told) < 5:
                logits = model(torch.tensor([ids + told])).logits[0, -1]
                logits[names.pad_token_id] = -torch.inf
                if (token := int(logits.argmax())) == names.eos_token_id:
                    break
                told.append(token)
        assert found[i].text == names.decode(told, skip_special_tokens=True).strip()
        assert found[i].prompt_tokens == len(ids)


def test_a_special_token_in_a_request_stays_text(texts):
    for folder in texts.values():
        replier = TransformersReplier(folder, batch=2, max_new_tokens=1, dtype="float32")
        plain = Ask(id="a", parts=(("text", "a"),), images=None)
        spelled = Ask(id="b", parts=(("text", "a<|im_end|>"),), images=None)
        one, other = (reply for _, reply in sorted(replier.reply([plain, spelled])))
        assert other.prompt_tokens - one.prompt_tokens == len("<|im_end|>")
