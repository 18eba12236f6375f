"""What files hold, by SHA-256: a checkpoint's own files, and those that its run goes on with.

Content is read once for each path, size and time of change. hashlib lets other threads work
meanwhile, and a checkpoint's files are read by the thread that writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sectow_fast.types import UserError

NAME = "checksums.json"
THREADS = min(8, os.cpu_count() or 1)


class Hashes:
    """{path: SHA-256 in hex}, kept by size and time of change.

    known: what `as_dict` gave before; anything else is left out, and read anew.
    """

    def __init__(self, known: object = None) -> None:
        rows = known.items() if isinstance(known, dict) else ()
        self._known = {
            path: (row[0], row[1], row[2])
            for path, row in rows
            if isinstance(row, list) and [type(one) for one in row] == [int, int, str]
        }

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Each file's hash; several files are read at once. OSError where one cannot be read."""
        wanted = list(dict.fromkeys(paths))
        with ThreadPoolExecutor(THREADS, thread_name_prefix="hash") as pool:
            return dict(zip(wanted, pool.map(self._one, wanted), strict=True))

    def as_dict(self) -> dict[str, list[int | str]]:
        """As JSON holds it, for `known`."""
        return {path: list(row) for path, row in sorted(self._known.items())}

    def _one(self, path: Path) -> str:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            size, changed, digest = self._known.get(str(path), (-1, -1, ""))
            if (size, changed) != (found.st_size, found.st_mtime_ns):
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._known[str(path)] = (found.st_size, found.st_mtime_ns, digest)
        return digest


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
    except (OSError, ValueError, TypeError, KeyError):
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
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
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
