"""Where a benchmark's folder begins, and which of its files hold a split.

People give the folder itself, the one it was put in (GitHub's zip unpacks to NAME-main/), the
data/ inside of it, or a repository in the hub's cache. A suite names its files by patterns: paths
below the root, the best one first, each part of them as `fnmatch` takes it, in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from sectow_fast.data.links import inside
from sectow_fast.types import UserError

ENDINGS = ("csv", "tsv", "jsonl", "json", "parquet")
DEEPEST = 2  # folders below the one that was given


def forms(*stems: str) -> tuple[str, ...]:
    """Patterns of a table under any of its names, in any format that is read."""
    return tuple(f"{stem}.{ending}" for stem in stems for ending in ENDINGS)


def converted(*splits: str, config: str = "") -> tuple[str, ...]:
    """Patterns of a split in the hub's parquet files, as its bot and `push_to_hub` lay them out."""
    found: list[str] = []
    for split in splits:
        found += [f"{config or 'default'}/{split}/*.parquet"]
        found += [f"{folder}/{split}-*.parquet" for folder in ([config] if config else ["data"])]
    return tuple(found)


def every(patterns: Mapping[str, Sequence[str]]) -> list[str]:
    """The patterns of all splits, for `root_with`."""
    return [one for found in patterns.values() for one in found]


def root_with(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The folder that the patterns are relative to; None where none of them matches anywhere.

    UserError where two folders below the one that was given match alike.
    """
    if above := _above(folder.absolute(), patterns):
        return above
    level = [folder.absolute()]
    for _ in range(DEEPEST + 1):
        level = [root for one in level for root in _snapshots(one)]
        for pattern in patterns:
            found = [root for root in level if _matches(root, pattern)]
            if len(found) > 1:
                raise UserError(
                    f"{folder}: found {pattern} in {found[0]} and in {found[1]}, expected it once;"
                    " give the folder that is meant"
                )
            if found:
                return found[0]
        level = [child for one in level for child in _children(one) if not child.is_symlink()]
    return None


def has(root: Path, patterns: Sequence[str]) -> bool:
    """Whether a file below `root` matches any of the patterns."""
    return any(_matches(root, pattern) for pattern in patterns)


def files(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of the first pattern that matches, in order (a split may be in several parts).

    UserError where none matches, or where a file is a link that leads out (see `inside`).
    """
    for pattern in patterns:
        if found := _matches(root, pattern):
            for path in found:
                inside(root, path.relative_to(root).as_posix())
            return found
    raise UserError(f"{root}: found no {patterns[0]}, expected it there; download that part too")


def _matches(root: Path, pattern: str) -> list[Path]:
    found = [root]
    for part in pattern.split("/"):
        found = [
            child
            for one in found
            for child in ([one / part] if (one / part).exists() else _children(one, all=True))
            if fnmatch(child.name.lower(), part.lower())
        ]
    return found


def _children(folder: Path, *, all: bool = False) -> list[Path]:
    """The folders in a folder, in order; with `all` its files too. Hidden ones are left out."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [one for one in found if one.name[0] != "." and (all or one.is_dir())]


def _snapshots(folder: Path) -> Iterator[Path]:
    """The revisions of a repository in the hub's cache (main where it is there), or `folder`."""
    snapshots = folder / "snapshots"
    if not (snapshots.is_dir() and (folder / "blobs").is_dir()):
        yield folder
        return
    main = folder / "refs" / "main"
    revision = main.read_text().strip() if main.is_file() else ""
    if revision and (snapshots / revision).is_dir():
        yield snapshots / revision
    else:
        yield from _children(snapshots)


def _above(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The folder above, where the one that was given is the first part of a pattern (data/)."""
    for pattern in patterns:
        first, _, rest = pattern.partition("/")
        if rest and first.lower() == folder.name.lower() and _matches(folder.parent, pattern):
            return folder.parent
    return None
