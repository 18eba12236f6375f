"""Which model it is, by what is in its files: a copy is the same model, an edited one is not."""

from __future__ import annotations

from pathlib import Path

from sectow_fast.hashes import Hashes
from sectow_fast.types import UserError

# Weights, and whatever else of a folder decides what a model replies.
ENDINGS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken")


def content_of(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of its bytes, as hexadecimal digits; a few files are read at once.

    UserError where a file cannot be read.
    """
    files = [one for one in sorted(folder.iterdir()) if one.suffix in ENDINGS and one.is_file()]
    try:
        return {path.name: digest for path, digest in Hashes().of(files).items()}
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
