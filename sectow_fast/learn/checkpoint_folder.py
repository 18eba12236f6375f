"""The folder of a run's checkpoints: which one is the latest, and which may be removed.

`checkpoint-000001/` holds tensors, state.json and checksums.json, and `latest` its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sectow_fast.learn import checksums
from sectow_fast.types import UserError

PART = ".part-"
WHOLE = re.compile(r"checkpoint-(\d{6,})")


def latest(folder: Path) -> Path | None:
    """The folder of the latest checkpoint; None where there is none yet."""
    name = latest_name(folder)
    return folder / name if name else None


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's state. UserError names a damaged file."""
    try:
        state = json.loads((path / "state.json").read_text())
        if not isinstance(state, dict):
            raise ValueError(f"a {type(state).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path / 'state.json'}: found no readable checkpoint ({error}), expected a JSON"
            " object; start the run anew with another --out"
        ) from None
    return state


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """UserError where the block finds a checkpoint's state without a field, or an odd one."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path / 'state.json'}: found a state that this version did not write"
            f" ({type(error).__name__}: {error}), expected one of a run; start the run anew with"
            " another --out"
        ) from None


def latest_name(folder: Path) -> str:
    """What `latest` names; "" before the first checkpoint. UserError where it names none."""
    pointer = folder / "latest"
    if not pointer.exists():
        return ""
    name = pointer.read_bytes().decode(errors="replace").strip()
    if not WHOLE.fullmatch(name) or not (folder / name).is_dir():
        there = sorted(path.name for path in folder.iterdir() if WHOLE.fullmatch(path.name))
        raise UserError(
            f"{pointer}: found {name[:80]!r}, expected the name of a checkpoint in that folder"
            f" (there: {', '.join(there) or 'none'}); write it there, or start the run anew with"
            " another --out"
        )
    return name


def clean(folder: Path, *, keep: str) -> None:
    """Remove earlier checkpoints and unfinished ones; nothing that a person put there."""
    for path in folder.iterdir():
        if path.name == keep or path.is_symlink() or not path.is_dir():
            continue
        unfinished = re.fullmatch(re.escape(PART) + r"\d{6,}", path.name)
        if unfinished or (WHOLE.fullmatch(path.name) and checksums.is_ours(path)):
            shutil.rmtree(path)


def flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
