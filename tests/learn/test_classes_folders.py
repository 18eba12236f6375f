"""Ids and pixels are those of the class's own processor, in training as in evaluation."""

from __future__ import annotations

import pytest
import torch
from classes_folders import PROCESSORS, save
from PIL import Image

from sectow_fast.data.codec import ChatCodec
from sectow_fast.data.processor import load_processor
from sectow_fast.data.special import ModelTokens
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.evaluation.repliers import Ask, TransformersReplier
from sectow_fast.learn.policy import Policy
from sectow_fast.learn.selftest import check_packing
from sectow_fast.types import Case, Sampling

SIZES = {"flat": (31, 15), "high": (14, 40), "even": (16, 16)}


class Pictures:
    """Pictures of other shapes, each with another pattern."""

    def size(self, key: str) -> tuple[int, int]:
        return SIZES[key]

    def open(self, key: str) -> Image.Image:
        width, height = SIZES[key]
        draw = torch.Generator().manual_seed(width)
        pixels = torch.randint(0, 255, (height, width, 3), generator=draw, dtype=torch.uint8)
        return Image.fromarray(pixels.numpy())


def case(name: str, *layout: tuple[str, str]) -> Case:
    return Case(id=name, text="", label="harmless", parts=layout)


CASES = [
    case("one", ("image", "flat"), ("text", "What is it?")),
    case("words", ("text", "Say hello.")),
    case("between", ("text", "Look:"), ("image", "high"), ("text", " and tell.")),
    case("even", ("image", "even"), ("text", "Well")),
]
SEVERAL = case("several", ("image", "even"), ("text", " or\n"), ("image", "flat"), ("text", "?"))


@pytest.fixture(scope="module", params=PROCESSORS)
def made(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = save(request.param, tmp_path_factory.mktemp(request.param) / "model")
    codec = ChatCodec(load_processor(folder), Pictures(), tokens=ModelTokens.of(folder))
    cases = CASES if request.param == "llava_onevision" else [*CASES, SEVERAL]
    return folder, codec, cases


def asked(processor, one: Case):
    content = [
        {"type": "image"} if kind == "image" else {"type": "text", "text": value}
        for kind, value in one.layout
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    pictures = [Pictures().open(key) for key in one.images]
    return processor(
        text=[text],
        images=[pictures] if pictures else None,
        add_special_tokens=False,
        return_tensors="pt",
    )


def tiles(value: torch.Tensor) -> torch.Tensor:
    """Idefics3's pictures [samples, tiles, ...] without those that only fill up."""
    if value.dim() < 4 or value.shape[1] == 3:
        return value
    flat = value.flatten(0, 1)
    return flat[flat.flatten(1).any(1)]


def test_ids_and_pixels_are_the_processors_own(made):
    folder, codec, cases = made
    model = _model(folder)
    family = Policy(model, codec).family
    for one, prompt in zip(cases, codec.encode(cases), strict=True):
        whole = asked(load_processor(folder), one)
        assert list(prompt.ids) == whole["input_ids"][0].tolist()
        inputs = family.model_inputs(codec.pixel_inputs([prompt]))
        counted = codec.pixel_inputs([prompt])
        assert sum(family.image_tokens(counted)) == prompt.ids.count(codec.image_id)
        for name, value in inputs.items():
            if name != "batch_num_images":
                torch.testing.assert_close(tiles(value), tiles(whole[name]))
    assert codec.most_image_tokens() >= max(codec.image_tokens(size) for size in SIZES.values())


def _model(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")


def test_a_row_of_its_prompts_passes_the_self_test_and_evaluation_says_what_rollout_says(made):
    folder, codec, cases = made
    model = _model(folder)
    prompts = codec.encode(cases)
    assert check_packing(Policy(model, codec), prompts) < 1e-5
    replier = TransformersReplier(folder, batch=1, max_new_tokens=4, dtype="float32")
    # What is never drawn is not what is tested here.
    codec.banned_ids = tuple(replier._config.suppress_tokens)
    greedy = Sampling(max_new_tokens=4, temperature=1.0, top_k=1)
    drawn = TorchEngine(model, codec).generate(prompts, n=1, sampling=greedy, seed="s")
    asks = [Ask(id=one.id, parts=one.layout, images=Pictures()) for one in cases]
    replies = dict(replier.reply(asks))
    assert [replies[i].text for i in range(len(cases))] == [codec.decode(d[0].ids) for d in drawn]
