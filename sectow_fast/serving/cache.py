"""Answers on disk, so that no request is sent (and paid for) twice, even after kill -9."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sectow_fast.types import UserError

# What SQLite says of a disk, by the last byte of its code, as the disk itself says it.
DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}


class AnswerCache:
    """body of a request -> (text, prompt tokens, completion tokens). Safe for many threads.

    An answer is on disk before it is used. Only the owner can read the file, as it holds replies.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(path, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS answers"
                " (key TEXT PRIMARY KEY, text TEXT, prompt INTEGER, completion INTEGER)"
            )
            self._base.commit()
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"cache {path}: found no usable cache ({error}); delete the file or name another"
            ) from None
        self._path = path
        self._lock = threading.Lock()

    @staticmethod
    def key(body: Mapping[str, Any]) -> str:
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> tuple[str, int, int] | None:
        with self._lock:
            query = "SELECT text, prompt, completion FROM answers WHERE key = ?"
            return self._base.execute(query, (key,)).fetchone()

    def put(self, key: str, text: str, prompt: int, completion: int) -> None:
        """OSError where the disk is full or broken."""
        values = (key, text, prompt, completion)
        try:
            with self._lock:
                self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)
                self._base.commit()
        except sqlite3.OperationalError as error:
            number = DISK.get(error.sqlite_errorcode & 0xFF)
            if number is None:
                raise
            raise OSError(number, str(error), str(self._path)) from None

    def close(self) -> None:
        with self._lock:
            self._base.close()
