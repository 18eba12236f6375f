"""Where a benchmark's folder begins: people give the folder itself, or the one it was put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def root_with(folder: Path, names: Sequence[str], *, below: Sequence[str] = ()) -> Path | None:
    """`folder`, or one of its subfolders `below`, where it holds any of `names`."""
    for root in (folder, *(folder / name for name in below)):
        if any((root / name).exists() for name in names):
            return root
    return None
