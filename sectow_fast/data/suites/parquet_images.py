"""Pictures in the cells of parquet files (the hub's mirrors), opened one at a time."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from PIL import Image

from sectow_fast.data.images import image_of_bytes, size_of_bytes
from sectow_fast.data.links import inside
from sectow_fast.data.suites.tables import open_parquet
from sectow_fast.types import UserError


def cell_key(root: Path, path: Path, row: int, column: str) -> str:
    """The key of a cell: file below the root, row from 0, column."""
    return f"{path.relative_to(root).as_posix()}#{row}#{column}"


def is_cell(key: str) -> bool:
    """Whether a key is one that `cell_key` made."""
    return re.fullmatch(r".+\.parquet#\d+#[^#]+", key, re.IGNORECASE) is not None


class ParquetImages:
    """Opens `cell_key`s. Keeps one row group of each column: rows are read in order."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        # Of each column: the file, the row group, its first row, its cells.
        self._held: dict[str, tuple[str, int, int, Any]] = {}
        self._groups: dict[str, list[int]] = {}
        self._lock = threading.Lock()  # pictures are asked for by several threads

    def open(self, key: str) -> Image.Image:
        """The picture in RGB. UserError names file, row and column."""
        return image_of_bytes(*self._bytes(key))

    def size(self, key: str) -> tuple[int, int]:
        return size_of_bytes(*self._bytes(key))

    def _bytes(self, key: str) -> tuple[bytes, str]:
        """A cell's bytes, and where it stands."""
        name, row_text, column = key.rsplit("#", 2)
        row = int(row_text)
        where = f"{self.root / name} row {row + 1}, column {column}"
        with self._lock:
            value = self._cell(name, row, column)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise UserError(f"image {where}: found no bytes, expected a picture; download it again")
        return data, where

    def file(self, key: str) -> Path:
        """See `FileStore`."""
        name = key.rsplit("#", 2)[0]
        if not inside(self.root, name).is_file():
            raise UserError(f"{self.root / name}: found no such file, expected a table")
        return self.root / name

    def _cell(self, name: str, row: int, column: str) -> Any:
        path = inside(self.root, name)
        if name not in self._groups:
            meta = open_parquet(path).metadata
            self._groups[name] = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        first, group = 0, 0
        while row >= first + self._groups[name][group]:
            first += self._groups[name][group]
            group += 1
        held = self._held.get(column)
        if held is None or held[:2] != (name, group):
            cells = open_parquet(path).read_row_group(group, columns=[column])[column]
            held = self._held[column] = (name, group, first, cells)
        return held[3][row - held[2]].as_py()
