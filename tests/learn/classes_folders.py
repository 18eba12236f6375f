"""Tiny models of the classes of 2026 as folders, with the processors of their classes.

SmolVLM's processor wants num2words, which is not among the packages of the tests. Those that want
torchvision are tested where it is (the environment of tests/sglang_cpu).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from classes_2026 import CLASSES, PINPOINTS
from families import IMAGE

# Of ids 70 to 95; the picture's placeholder is the one that the tiny models have.
TILES = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
SPECIAL = {0: "<pad>", 1: "<end>", 2: "<user>", 3: "<bot>"}
SPECIAL |= dict(zip(range(80, 84), TILES, strict=True)) | {84: "<global-img>"}
SPECIAL |= {75 + i: f"<|img_{word[1:-1]}|>" for i, word in enumerate(TILES)}  # LFM2-VL's
SPECIAL |= {85: "<end_of_utterance>", 86: "<unk>"}
SPECIAL |= {IMAGE: "<image>", 91: "<img>", 92: "</img>", 93: "<|video|>"}
SPECIAL |= {94: "<fake_token_around_image>", 95: "<audio>"}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!:ĠĊ"
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{% else %}<bot>{% endif %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}<end>\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def tokenizer(**names: str):
    """A token for each letter, over ids 4 to 69. names: which tokens have a part to play."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {letter: 4 + i for i, letter in enumerate(LETTERS)} | {w: i for i, w in SPECIAL.items()}
    backend = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        extra_special_tokens=names,
    )


def llava_next():
    from transformers.models.llava_next import image_processing_pil_llava_next as images

    return images.LlavaNextImageProcessorPil(
        size={"shortest_edge": 8},
        crop_size={"height": 8, "width": 8},
        image_grid_pinpoints=PINPOINTS,
    ), dict(patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1)


def llava_onevision():
    from transformers.models.llava_onevision import image_processing_pil_llava_onevision as images

    return images.LlavaOnevisionImageProcessorPil(
        size={"height": 8, "width": 8}, image_grid_pinpoints=PINPOINTS
    ), dict(
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )


def internvl():
    from transformers.models.got_ocr2 import image_processing_pil_got_ocr2 as images

    return images.GotOcr2ImageProcessorPil(
        size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=2
    ), dict(image_seq_length=4)


def idefics3():
    from transformers.models.idefics3 import image_processing_pil_idefics3 as images

    return images.Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    ), dict(image_seq_len=4)


def glm4v():
    from transformers.models.glm4v import image_processing_pil_glm4v as images

    return images.Glm4vImageProcessorPil(
        patch_size=4, size={"shortest_edge": 256, "longest_edge": 1024}
    ), {}


def qwen3_5():
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as images

    return images.Qwen2VLImageProcessorPil(
        patch_size=4, size={"shortest_edge": 256, "longest_edge": 1024}
    ), {}


def gemma4():
    from transformers.models.gemma4 import image_processing_pil_gemma4 as images

    return images.Gemma4ImageProcessorPil(
        patch_size=4, pooling_kernel_size=2, max_soft_tokens=70
    ), dict(image_seq_length=70)


def minicpmv4_6():
    from transformers.models.minicpmv4_6 import image_processing_pil_minicpmv4_6 as images

    return images.MiniCPMV4_6ImageProcessorPil(
        patch_size=4, scale_resolution=16, max_slice_nums=2
    ), {}


def mistral3():
    from transformers.models.pixtral import image_processing_pil_pixtral as images

    return images.PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=4), dict(
        patch_size=4,
        spatial_merge_size=2,
        image_token="<image>",
        image_break_token="<img>",
        image_end_token="</img>",
    )


def lfm2_vl():
    import transformers

    return transformers.Lfm2VlImageProcessor(
        encoder_patch_size=4,
        tile_size=16,
        max_tiles=2,
        min_image_tokens=1,
        max_image_tokens=8,
        max_num_patches=32,
    ), {}


PROCESSORS = {
    f.__name__: f
    for f in (
        llava_next,
        llava_onevision,
        internvl,
        idefics3,
        glm4v,
        qwen3_5,
    )
}
if importlib.util.find_spec("torchvision"):
    PROCESSORS |= {f.__name__: f for f in (gemma4, minicpmv4_6, mistral3, lfm2_vl)}
NAMES = {"image_token": "<image>", "video_token": "<|video|>"}
OWN = {
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<image>",
        "video_token": "<|video|>",
    },
    "gemma4": NAMES
    | {"boi_token": "<img>", "eoi_token": "</img>", "audio_token": "<audio>"}
    | {"boa_token": TILES[0], "eoa_token": TILES[1]},
    "lfm2_vl": NAMES
    | {
        "image_start_token": "<img>",
        "image_end_token": "</img>",
        "image_thumbnail_token": "<global-img>",
    },
    "minicpmv4_6": NAMES
    | {
        "image_start_token": "<img>",
        "image_end_token": "</img>",
        "slice_start_token": TILES[0],
        "slice_end_token": TILES[1],
        "image_id_start_token": TILES[2],
        "image_id_end_token": TILES[3],
    },
}


def save(name: str, folder: Path) -> Path:
    """The model, and a processor's files as a published checkpoint has them."""
    CLASSES[name]().save_pretrained(folder)
    images, settings = PROCESSORS[name]()
    images.save_pretrained(folder)
    tokenizer(**OWN.get(name, NAMES)).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder
