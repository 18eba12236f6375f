"""A model folder's processor, with torchvision or without it, and its model.

The Qwen-VL processors want a video processor, which needs torchvision. No video is used here, so
where torchvision is missing they are built without one. Everything else is as saved.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sectow_fast.data.words import PROBE, check_template, load_words, takes, template_error
from sectow_fast.model_folder import (
    TEXT_CLASS,
    UNREADABLE,
    auto_class,
    configuration,
    reading,
    unreadable,
)
from sectow_fast.types import UserError

# Settings by which a processor cuts a picture into tiles of one size, as many as it takes.
TILES = ("crop_to_patches", "image_grid_pinpoints", "do_image_splitting")
GIVEN = ("image_processor", "tokenizer")  # the parts of a processor that are used here


def sees(folder: Path, *, role: str = "model") -> bool:
    """Whether the folder's model takes pictures, by its configuration. UserError: not readable."""
    return auto_class(configuration(folder, role=role)) != TEXT_CLASS


def load_processor(
    folder: Path,
    *,
    role: str = "model",
    max_pixels: int | None = None,
    setting: str = "model.max_pixels",
) -> Any:
    """AutoProcessor's processor for pictures and words; for a model of words alone, a
    `WordsProcessor` of its tokenizer. max_pixels, setting: see `cap_pixels`; without pictures there
    is nothing to cap.

    UserError: not loadable, no template or one that cannot be filled in, or a cap that it cannot
    keep.
    """
    from transformers import AutoProcessor

    if not sees(folder, role=role):
        return load_words(folder, role=role)
    try:
        if importlib.util.find_spec("torchvision") is None and _wants_video(folder):
            processor = _without_video(folder)
        else:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (AttributeError, TypeError, *UNREADABLE) as error:
        what = f"its processor{_hint()}"
        raise unreadable(folder, error, role=role, what=what) from None
    if not hasattr(processor, "image_processor"):
        raise UserError(f"{role} {folder}: found no image processor, expected a model that sees")
    check_template(processor, folder, role=role)
    problem = takes(processor.apply_chat_template, [{"type": "text", "text": PROBE}])
    if problem is not None:
        raise template_error(folder, problem, role=role)
    if max_pixels is not None:
        cap_pixels(processor.image_processor, max_pixels, setting=setting)
    return processor


def load_model(
    folder: Path,
    *,
    dtype: str,
    role: str = "model",
    trust: bool = False,
    auto: str | None = None,
) -> Any:
    """The model of a folder, from safetensors alone, or from one GGUF file, which transformers
    makes plain weights of.

    trust: whether code in the folder may run. auto: the class of transformers that loads it; none:
    by its configuration. UserError: not loadable, or weights that do not fit its config.json.
    """
    import transformers
    from safetensors import SafetensorError

    told = reading(folder, role=role)
    auto = auto or auto_class(configuration(folder, role=role, trust=trust))
    options = told or {"use_safetensors": True}
    try:
        if (folder / "generation_config.json").is_file():  # transformers passes over a damaged one
            transformers.GenerationConfig.from_pretrained(folder)
        model = getattr(transformers, auto).from_pretrained(
            folder, trust_remote_code=trust, dtype=dtype, **options
        )
    except (*UNREADABLE, SafetensorError) as error:
        if "out of memory" in str(error):
            raise  # the folder is as it should be
        raise unreadable(folder, error, role=role, what="its model") from None
    if told:  # its weights are plain now, and it is saved as any other
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False
    return model


def shown(processor: Any, picture: Any) -> tuple[dict[str, Any], str]:
    """(the model's inputs of one picture, what stands for it in a text), as the processor makes
    both when it is called with the picture and a text."""
    kind = processor.valid_processor_kwargs
    settings = processor._merge_kwargs(kind, processor.tokenizer.init_kwargs, return_tensors="pt")
    given = settings["images_kwargs"]
    if "use_image_special_tokens" in settings["text_kwargs"]:  # LFM2-VL's, where it is misplaced
        given["use_image_special_tokens"] = settings["text_kwargs"]["use_image_special_tokens"]
    given.pop("use_image_id", None)  # MiniCPM-V's, for `written`
    made, (text,) = processor._process_images([picture], **given)
    return {name: torch.as_tensor(value) for name, value in made.items()}, text


def written(processor: Any, text: str, pictures: Sequence[str]) -> str:
    """A template's text with what stands for each of its pictures, as the processor writes it."""
    pictures = list(pictures)
    if getattr(processor, "default_use_image_id", False):  # MiniCPM-V numbers them
        pictures = processor._prepend_local_ids([text], pictures, processor.image_token)
    (text,), _ = processor.get_text_with_replacements([text], pictures)
    return text


def cap_pixels(image_processor: Any, most: int, *, setting: str = "model.max_pixels") -> None:
    """Let a picture over `most` pixels be scaled down, and so bound its tokens. In place.

    setting: what a user sets `most` by, for messages.
    UserError where the processor makes every picture larger than that, or has no such bound.
    """
    name = f"{setting} {most}: found {type(image_processor).__name__},"
    size = dict(image_processor.size or {})
    # A processor that does not crop has a size to crop to all the same.
    crops = getattr(image_processor, "do_center_crop", False)
    fixed = dict(image_processor.crop_size) if crops else size
    tiled = any(getattr(image_processor, name, None) for name in TILES)
    if fixed.get("height") and fixed.get("width") and not tiled:
        least = fixed["height"] * fixed["width"]
    elif hasattr(image_processor, "merge_size"):  # a Qwen-VL's, whose edges are numbers of pixels
        least = size["shortest_edge"]
        edges = {"shortest_edge": least, "longest_edge": min(most, size["longest_edge"])}
        image_processor.size = type(image_processor.size)(**edges)
    else:
        raise UserError(
            f"{name} whose pictures have no such bound, expected none; leave it out, or"
            f" give --{setting.removeprefix('--')} null where a preset has it"
        )
    if least > most:
        raise UserError(
            f"{name} which makes every picture {least} pixels or more, expected at most"
            f" {setting}; raise it"
        )


def keep_size(image_processor: Any, folder: Path) -> None:
    """Write the size to which it scales pictures into a model folder's files, so that whoever loads
    the folder shows the model pictures as it was trained on them. In place."""
    size = image_processor.to_dict()["size"]
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        settings = json.loads(path.read_text(encoding="utf-8"))
        own = settings if name.startswith("pre") else settings.get("image_processor")
        if own is None:
            continue
        own["size"] = size
        # Older files of a Qwen-VL say the same by these names, which win over `size`.
        for old, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            if old in own and edge in size:
                own[old] = size[edge]
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _hint() -> str:
    return "" if importlib.util.find_spec("torchvision") else " (it may want torchvision)"


def _processor_class(folder: Path) -> Any:
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    return None if name is None else getattr(transformers, name)


def _wants_video(folder: Path) -> bool:
    made = _processor_class(folder)
    return made is not None and "video_processor" in made.get_attributes()


def _without_video(folder: Path) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    made = _processor_class(folder)

    class PicturesOnly(made):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name not in GIVEN:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    template = folder / "chat_template.jinja"
    # What else the class is made by: how many tokens a picture has, for one.
    saved, _ = made.get_processor_dict(folder)
    known = inspect.signature(made.__init__).parameters
    others = {name for name in made.get_attributes() if name not in GIVEN}  # for videos, sounds
    kept = known.keys() - {*GIVEN, *others, "chat_template"}
    return PicturesOnly(
        **{name: value for name, value in saved.items() if name in kept},
        **dict.fromkeys(others),
        image_processor=AutoImageProcessor.from_pretrained(folder, trust_remote_code=False),
        tokenizer=tokenizer,
        chat_template=template.read_text() if template.is_file() else tokenizer.chat_template,
    )


def expanded(processor: Any, image_id: int, marker: int) -> str:
    """What a processor writes for a picture, with one placeholder where it has many.

    Gemma 3's template writes a begin-of-image token, and its processor a whole sequence for it.
    """
    if marker == image_id:
        return processor.image_token
    word = processor.tokenizer.convert_ids_to_tokens(image_id)
    whole = getattr(processor, "full_image_sequence", "")
    if not isinstance(word, str) or word not in whole:
        raise UserError(
            f"model: found {processor.image_token!r} as the processor's token of a picture and"
            f" {word!r} as the model's, expected one token, or a processor that says what stands"
            " for a picture (full_image_sequence); is the processor the model's own?"
        )
    return re.sub(f"({re.escape(word)})+", lambda _: word, whole)
