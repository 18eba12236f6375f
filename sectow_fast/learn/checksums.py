"""What files hold, by SHA-256: a checkpoint's own files, and those that its run goes on with.

A checkpoint's files are read by the thread that writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from sectow_fast.hashes import Hashes
from sectow_fast.types import UserError

NAME = "checksums.json"


def write(folder: Path, beside: Iterable[Path], hashes: Hashes, *, name: str) -> None:
    """`checksums.json` of all files in `folder`, and of those `beside` it, by relative path.

    hashes: knows the files beside it from one checkpoint to the next. name: the folder's, once it
    is whole.
    """
    mine = Hashes().of(sorted(folder.iterdir()))
    found = mine | hashes.of(beside)
    table = {os.path.relpath(path, folder): digest for path, digest in found.items()}
    (folder / NAME).write_text(json.dumps({"checkpoint": name, "files": table}, indent=1) + "\n")


def is_ours(folder: Path) -> bool:
    """Whether a run wrote this checkpoint under this name. A person's copy has another name."""
    try:
        return json.loads((folder / NAME).read_text())["checkpoint"] == folder.name
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def changed(folder: Path) -> list[str]:
    """What is not as it was when the checkpoint was written, one line for each file.

    UserError where `checksums.json` cannot be read.
    """
    path = folder / NAME
    try:
        table = json.loads(path.read_text())["files"]
        if not all(isinstance(one, str) for one in table.values()):
            raise ValueError("not a table of checksums")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: found no readable checksums ({error}), expected those of a checkpoint of this"
            " version; start the run anew with another --out"
        ) from None
    return _unlike(folder, table)


def _unlike(folder: Path, table: Mapping[str, str]) -> list[str]:
    where = {name: Path(os.path.normpath(folder / name)) for name in table}
    there = {name: path for name, path in where.items() if path.is_file()}
    try:
        found = Hashes().of(there.values())
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    lines = []
    for name, digest in table.items():
        if name not in there:
            lines.append(f"{where[name]}: found no such file")
        elif found[there[name]] != digest:
            lines.append(f"{where[name]}: found other bytes than were written")
    return lines
