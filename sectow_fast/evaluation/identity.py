"""Which model it is, by what is in its files: a copy is the same model, an edited one is not."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sectow_fast.types import UserError

# Weights, and whatever else of a folder decides what a model replies.
ENDINGS = (".gguf", ".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken")


def content_of(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of its bytes, as hexadecimal digits; a few files are read at once.

    UserError where a file cannot be read.
    """
    files = [one for one in sorted(folder.iterdir()) if one.suffix in ENDINGS and one.is_file()]
    with ThreadPoolExecutor(4) as pool:
        return {one.name: digest for one, digest in zip(files, pool.map(_sum, files), strict=True)}


def _sum(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
