"""A model's folder: what it must hold, and how transformers is told to read it.

A folder has `config.json`, or in its place one GGUF file, which holds configuration, tokenizer and
weights together and is read by transformers' own reader (`gguf_file=`).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from sectow_fast.types import UserError

GGUF = ".gguf"


def check_folder(folder: Path, *, role: str = "model") -> None:
    """UserError where the folder holds no model that could be loaded. role: how a user named it."""
    reading(folder, role=role)


def reading(folder: Path, *, role: str = "model") -> dict[str, str]:
    """What every `from_pretrained` is told beside the folder: nothing, or its GGUF file."""
    if (folder / "config.json").is_file():
        return {}
    found = sorted(path.name for path in folder.glob(f"*{GGUF}")) if folder.is_dir() else []
    if len(found) == 1:
        return {"gguf_file": found[0]}
    what = f"{len(found)} GGUF files ({', '.join(found)})" if found else "no config.json"
    raise UserError(
        f"{role} {folder}: found {what}, expected a model's folder; give one that save_pretrained"
        " wrote, or one with a single GGUF file"
    )


def configuration(folder: Path, *, role: str = "model", trust: bool = False) -> Any:
    """transformers' configuration of the folder's model; no weight is read. UserError: not
    readable. trust: whether code in the folder may run."""
    from transformers import AutoConfig

    told = reading(folder, role=role)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust, **told)
    except UNREADABLE as error:
        raise unreadable(folder, error, role=role, what="its configuration") from None
    if told and not config.architectures:  # a GGUF file does not name it, and engines ask for it
        config.architectures = [_class_name(config)]
    return config


TEXT_CLASS, PICTURE_CLASS = "AutoModelForCausalLM", "AutoModelForImageTextToText"


def auto_class(config: Any) -> str:
    """The Auto class of transformers that loads a configuration's model. A class of words alone is
    one that is no image-text class; what neither list knows is left to the image-text one."""
    from transformers.models.auto import modeling_auto

    name = config.model_type
    words = name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    pictures = name in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return TEXT_CLASS if words and not pictures else PICTURE_CLASS


def _class_name(config: Any) -> str:
    from transformers.models.auto import modeling_auto

    return modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]


# What transformers raises where a folder is not as it should be.
UNREADABLE = (OSError, ValueError, LookupError, ImportError, RuntimeError, TypeError)
UNREADABLE += (AttributeError, struct.error)


def unreadable(folder: Path, error: Exception, *, role: str, what: str) -> UserError:
    """The one line for a part of a folder that transformers could not read."""
    words = " ".join(str(error).split())[:240]
    told = reading(folder, role=role)
    if told and "gguf" in words and isinstance(error, ImportError):
        return UserError(
            f"{role} {folder / told['gguf_file']}: found no packages gguf and accelerate, expected"
            " both to read a GGUF file; pip install 'sectow-fast[smol]'"
        )
    where = folder / told["gguf_file"] if told else folder
    return UserError(f"{role} {where}: {what} cannot be loaded ({words})")
