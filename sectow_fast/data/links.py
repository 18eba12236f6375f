"""Files of a user's folder by relative path. A link may lead out of it to the hub's blobs alone.

A file that is a pointer of Git LFS stands for another one, which is not there yet.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from sectow_fast.types import UserError

LFS = b"version https://git-lfs"  # what a file begins with that `git lfs pull` did not fetch


def refuse_pointer(head: bytes, name: str) -> None:
    """UserError where a file's first bytes, at least as many as `LFS`, are those of a pointer."""
    if head.startswith(LFS):
        raise UserError(
            f"{name}: found a Git LFS pointer, expected the file it stands for;"
            " run git lfs pull in its repository, or download it"
        )


def inside(root: Path, key: str) -> Path:
    """The real path of `key` below `root`; it need not exist.

    The cache of the Hugging Face hub is made of links, snapshots/REVISION/FILE -> blobs/HASH: where
    root lies in a snapshot, a link to a blob of the same repository is followed. UserError for
    every other path or link that leads out.
    """
    top = Path(os.path.realpath(root))
    pure = PurePosixPath(key)
    if not pure.is_absolute() and ".." not in pure.parts:
        real = Path(os.path.realpath(top / key))
        if real.is_relative_to(top) or real.parent == _blobs(top):
            return real
    raise UserError(
        f"file {key!r}: found a path outside {root}, expected one inside; links may lead to the"
        " blobs of the hub's cache only: put the file itself there"
    )


def _blobs(top: Path) -> Path | None:
    """blobs/ of the hub's cache that a real path lies in."""
    for folder in (top, *top.parents):
        if folder.parent.name == "snapshots":
            return folder.parents[1] / "blobs"
    return None
