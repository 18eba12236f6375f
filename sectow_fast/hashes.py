"""What files hold, by SHA-256.

Content is read once for each path, size and time of change. hashlib lets other threads work
meanwhile.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THREADS = min(8, os.cpu_count() or 1)  # for what waits for files, or leaves Python meanwhile


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
