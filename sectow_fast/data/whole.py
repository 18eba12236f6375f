"""Pictures are decoded once before a model is loaded, so that none fails a run half way through.

Sound ones are remembered by path, size and time of change, in the user's cache folder, and not
decoded by the next run. Where nothing can be remembered, only time is lost.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sectow_fast.data.images import FileStore, ImageStore
from sectow_fast.data.progress import progress
from sectow_fast.hashes import THREADS
from sectow_fast.types import UserError

READING = 3  # of `images.as_seen`; another number forgets what earlier code found sound
# What identifies a picture cheaply: its file and key, the file's bytes, and nanoseconds of its
# last change.
_Stamp = tuple[str, int, int]


def unshowable(store: ImageStore, keys: Sequence[str], *, title: str) -> dict[str, str]:
    """key -> why its picture cannot be shown, of each distinct key whose picture cannot.

    title: what stands before the counts of the progress bar.
    """
    broken: dict[str, str] = {}
    stamps: dict[str, _Stamp] = {}
    wanted = list(dict.fromkeys(keys))
    if isinstance(store, FileStore):
        for key in wanted:
            try:
                stamps[key] = _stamp(store.file(key), key)
            except UserError as error:
                broken[key] = str(error)
    with _Sound.opened() as sound:
        known = sound.of(stamps.values())
        todo = [key for key in wanted if key not in broken and stamps.get(key) not in known]

        def reason(key: str) -> str:
            try:
                store.open(key)
            except UserError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(THREADS) as pool, progress(title, len(todo)) as step:
            for key, why in zip(todo, pool.map(reason, todo), strict=True):
                if why:
                    broken[key] = why
                step()
        sound.add(stamps[key] for key in todo if key in stamps and key not in broken)
    return {key: broken[key] for key in wanted if key in broken}


def _stamp(path: Path, key: str) -> _Stamp:
    found = path.stat()
    return f"{path}#{key}", found.st_size, found.st_mtime_ns


class _Sound:
    """The stamps of pictures that were decoded before; without a database it remembers nothing."""

    def __init__(self, database: sqlite3.Connection | None) -> None:
        self._database = database

    @classmethod
    @contextlib.contextmanager
    def opened(cls) -> Iterator[_Sound]:
        try:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            path = Path(base) / "sectow_fast" / "pictures.sqlite"
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, timeout=10)
            with database:
                database.execute(
                    "create table if not exists sound (path text primary key, bytes integer,"
                    " changed integer, reading integer)"
                )
        except (OSError, RuntimeError, sqlite3.Error):
            yield cls(None)
            return
        with contextlib.closing(database):
            yield cls(database)

    def of(self, stamps: Iterable[_Stamp]) -> set[_Stamp]:
        """Those of the stamps that are known."""
        if self._database is None:
            return set()
        wanted = set(stamps)
        query = "select path, bytes, changed from sound where reading = ?"
        try:
            return {row for row in self._database.execute(query, (READING,)) if row in wanted}
        except sqlite3.Error:
            return set()

    def add(self, stamps: Iterable[_Stamp]) -> None:
        if self._database is None:
            return
        with contextlib.suppress(sqlite3.Error, UnicodeError), self._database:
            self._database.executemany(
                "insert or replace into sound values (?, ?, ?, ?)",
                [(*stamp, READING) for stamp in stamps],
            )
