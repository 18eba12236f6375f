"""Which model it is, by what is in its files: a copy is the same model, an edited one is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sectow_fast.data.processor import sees
from sectow_fast.hashes import Hashes
from sectow_fast.model_folder import reading
from sectow_fast.types import UserError

# Weights, and whatever else of a folder decides what a model replies.
ENDINGS = (".gguf", ".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken")


def blind_one(folders: Sequence[Path], *, engine: str) -> str:
    """The first of the models that takes no pictures, "" where all do; no weight is read.

    UserError: a folder that holds no model, or none that the engine reads.
    """
    found = ""
    for folder in folders:
        found = found or ("" if sees(folder, role="--model") else str(folder))
        if engine == "sglang" and reading(folder):
            raise UserError(
                f"--model {folder}: found a GGUF file, expected safetensors with --engine sglang;"
                " use --engine torch, or the folder of a run that started from it"
            )
    return found


def content_of(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of its bytes, as hexadecimal digits; a few files are read at once.

    UserError where a file cannot be read.
    """
    files = [one for one in sorted(folder.iterdir()) if one.suffix in ENDINGS and one.is_file()]
    try:
        return {path.name: digest for path, digest in Hashes().of(files).items()}
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
