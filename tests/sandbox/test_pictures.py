"""Pictures on their way to a model: counted by size, processed by threads, bounded in every way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from sectow_fast.config import Config
from sectow_fast.data.codec import ChatCodec, kept_pictures
from sectow_fast.data.processor import cap_pixels
from sectow_fast.data.sandbox.model import build_processor
from sectow_fast.data.sandbox.world import SandboxWorld
from sectow_fast.real.stage import check_cap
from sectow_fast.types import Case, Prompt, UserError

CAP = 56 * 56
SIZES = {"small": (40, 30), "wide": (200, 90), "tall": (60, 300), "huge": (900, 700)}


class Photos:
    """Pictures by size. `opened`: the keys that were decoded."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def size(self, key: str) -> tuple[int, int]:
        return SIZES[key]

    def open(self, key: str) -> Image.Image:
        self.opened.append(key)
        return Image.effect_noise(SIZES[key], 60).convert("RGB")


class Tokenizer:
    eos_token_id, pad_token_id, unk_token_id = 1, 0, None
    all_special_ids = ()

    def convert_tokens_to_ids(self, word):
        return 9

    def __call__(self, texts, **_):
        return {"input_ids": [[5, 9, 6] if "image" in text else [5, 6] for text in texts]}


def photo_codec(**options) -> ChatCodec:
    """A Qwen-VL's codec; its real processor needs a tokenizer of the hub."""
    processor = SimpleNamespace(
        tokenizer=Tokenizer(),
        image_processor=Qwen2VLImageProcessor(),
        image_token="<image>",
        chat_template="-",
        apply_chat_template=lambda chat, **_: str(chat),
    )
    return ChatCodec(processor, Photos(), **options)


def cases(*keys):
    return [Case(id=key, text="what", label="harmless", image=key) for key in keys]


def shown(key):
    return Prompt(case_id=key, ids=(9,), images=(key,))


@pytest.mark.parametrize("cap", [None, CAP])
def test_tokens_are_counted_by_size_and_pixels_processed_only_where_asked_for(cap):
    codec = photo_codec()
    if cap is not None:
        cap_pixels(codec.processor.image_processor, cap)
    prompts = codec.encode(cases(*SIZES))
    codec.encode(cases(*SIZES))
    assert codec.images.opened == []  # a size needs no decoding
    pixels = codec.pixel_inputs(prompts[1:])
    assert len(codec.images.opened) == len(SIZES) - 1  # the first one's were not asked for
    needed = [int(grid.prod()) // 4 for grid in pixels["image_grid_thw"]]
    assert [prompt.ids.count(9) for prompt in prompts[1:]] == needed
    codec.pixel_inputs(prompts[1:])
    assert len(codec.images.opened) == len(SIZES) - 1
    if cap is not None:
        assert max(needed) <= codec.most_image_tokens() == cap // 28**2


def test_the_most_tokens_are_those_of_the_shape_that_fills_the_cap_and_not_of_a_square():
    codec = photo_codec()
    cap_pixels(codec.processor.image_processor, 1_003_520)  # the presets'
    assert codec.image_tokens((4000, 4000)) == 35 * 35
    assert codec.image_tokens((896, 1120)) == 32 * 40 == codec.most_image_tokens()


def test_pictures_are_the_same_by_threads_and_one_by_one():
    ahead, plain = photo_codec(), photo_codec()
    held = {key: plain.images.open(key) for key in SIZES}
    ahead.images.open = plain.images.open = held.get
    prompts = [shown(key) for key in ("tall", "small", "tall", "huge")]
    ahead.prefetch(prompts)
    whole = ahead.pixel_inputs(prompts)
    alone = [plain.pixel_inputs([prompt]) for prompt in prompts]
    for name in whole:
        assert torch.equal(whole[name], torch.cat([one[name] for one in alone]))


def test_what_is_kept_is_bounded_and_the_latest_used_stay():
    size = photo_codec().pixel_inputs([shown("small")])["pixel_values"].nbytes
    codec = photo_codec(kept_bytes=int(1.5 * size))
    for key in ("small", "huge", "small", "small"):
        codec.pixel_inputs([shown(key)])
    assert codec.images.opened == ["small", "huge", "small"]


def test_pictures_are_kept_in_half_precision_only_where_they_are_computed_in_it():
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        config = Config.model_validate({"learn": {"dtype": name, "picture_gib": 0.5}})
        options = kept_pictures(config)
        assert options["kept_bytes"] == 2**29
        pixels = photo_codec(**options).pixel_inputs([shown("small")])
        assert pixels["pixel_values"].dtype == dtype
        assert pixels["image_grid_thw"].dtype == torch.long


def test_a_broken_picture_is_refused_by_its_own_words_whichever_thread_meets_it():
    codec = photo_codec()

    def broken(key):
        raise UserError("image tall: found a damaged file")

    codec.images.open = codec.images.size = broken
    codec.prefetch([shown("tall")])
    for ask in (lambda: codec.pixel_inputs([shown("tall")]), lambda: codec.encode(cases("tall"))):
        with pytest.raises(UserError, match="image tall: found a damaged file"):
            ask()


def test_a_cap_that_a_processor_cannot_keep_is_refused_in_one_line():
    cap_pixels(CLIPImageProcessor(), 336 * 336)
    cap_pixels(SiglipImageProcessor(), 224 * 224)
    cap_pixels(
        build_processor(SandboxWorld(seed=3, config=Config().sandbox)).image_processor, 28 * 28
    )
    for made, most in (
        (CLIPImageProcessor(), 100),
        (SiglipImageProcessor(), 100),
        (Qwen2VLImageProcessor(), 100),
        (SimpleNamespace(size={}, do_center_crop=False), 10**6),
        (SimpleNamespace(size=None), 10**6),  # Gemma 4's and MiniCPM-V's: a number of tokens
        (LlavaNextImageProcessorPil(), 10**6),  # tiles of one size, as many as it takes
        (LlavaOnevisionImageProcessorPil(), 10**6),
        (Idefics3ImageProcessorPil(), 10**6),
        (PixtralImageProcessorPil(), 10**6),
    ):
        with pytest.raises(UserError, match=rf"model.max_pixels {most}: found ") as caught:
            cap_pixels(made, most)
        assert "\n" not in str(caught.value)


def test_a_cap_never_lets_a_processor_make_larger_pictures():
    made = Qwen2VLImageProcessor()
    before = dict(made.size)
    cap_pixels(made, 10**9)
    assert dict(made.size) == before


def test_a_cap_that_leaves_no_room_for_words_is_refused():
    config = Config.model_validate(
        {"model": {"max_pixels": 10**6}, "engine": {"context_length": 2000}}
    )
    check_cap(config, 1280)
    with pytest.raises(UserError, match=r"found up to 1995 tokens .* expected fewer than 2000"):
        check_cap(config, 1995)
    with pytest.raises(UserError, match=r"attack\.tokens_per_batch"):
        check_cap(Config.model_validate({"attack": {"tokens_per_batch": 1280}}), 1280)
