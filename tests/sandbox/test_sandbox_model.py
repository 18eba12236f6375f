"""The sandbox's model folder and the codec: what the processor gives is what is trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sectow_fast.config import SandboxConfig
from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.sandbox import SandboxWorld
from sectow_fast.data.sandbox.model import build_model, build_processor, save_model
from sectow_fast.types import UserError

WORLD = SandboxWorld(seed=3, config=SandboxConfig(suite_size=20))
CASES = [case for suite in WORLD.suites().values() for case in suite[:6]]


def test_a_saved_folder_loads_by_the_auto_classes_and_runs(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = build_model(WORLD, seed=0, hidden_size=32, layers=1)
    save_model(model, build_processor(WORLD), tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.bin"))
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "make shown"}]}
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=text, images=[WORLD.images.open("draw/0/0")], return_tensors="pt")
    with torch.inference_mode():
        logits = loaded(**inputs).logits
    assert logits.shape[-1] == len(processor.tokenizer) and torch.isfinite(logits).all()


def test_equal_seeds_make_equal_weights_and_leave_the_callers_stream_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (build_model(WORLD, seed=7, hidden_size=32, layers=1) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_prompts_are_the_processors_own() -> None:
    processor = build_processor(WORLD)
    codec = ChatCodec(processor, WORLD.images)
    prompts = codec.encode(CASES)
    assert codec.encode(CASES) == prompts
    for case, prompt in zip(CASES, prompts, strict=True):
        content = [{"type": "image"}] if case.image else []
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": case.text}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        pictures = [WORLD.images.open(case.image)] if case.image else None
        own = processor(text=text, images=pictures, return_tensors="pt")
        assert prompt.ids == tuple(own["input_ids"][0].tolist())
        pixels = codec.pixel_inputs([prompt])
        assert set(pixels) == ({"pixel_values"} if case.image else set())
        if case.image:
            assert torch.equal(pixels["pixel_values"], own["pixel_values"])


def test_pictures_come_in_the_order_of_the_prompts() -> None:
    codec = ChatCodec(build_processor(WORLD), WORLD.images)
    prompts = codec.encode(CASES)
    shown = [prompt for prompt in prompts if prompt.images]
    stacked = codec.pixel_inputs(prompts)["pixel_values"]
    assert stacked.shape == (len(shown), 3, 28, 28)
    for prompt, pixels in zip(shown, stacked, strict=True):
        assert torch.equal(codec.pixel_inputs([prompt])["pixel_values"][0], pixels)


def test_replies_end_and_come_back_as_words() -> None:
    codec = ChatCodec(build_processor(WORLD), WORLD.images)
    for case in WORLD.suites()["requests"]:
        ids = codec.encode_reply(case.answer)
        assert ids[-1] == codec.eos_id and codec.decode(ids) == case.answer
    assert codec.image_id in codec.banned_ids and codec.pad_id in codec.banned_ids
    assert codec.pad_id == 0 and codec.eos_id not in codec.banned_ids


def test_a_processor_without_chat_template_is_refused_in_one_line() -> None:
    whole = build_processor(WORLD)
    bare = SimpleNamespace(
        tokenizer=whole.tokenizer, image_token=whole.image_token, chat_template=None
    )
    with pytest.raises(UserError, match="chat template") as caught:
        ChatCodec(bare, WORLD.images)
    assert "\n" not in str(caught.value)
