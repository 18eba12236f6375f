"""Pictures as suites have them: files of the folder, and cells of parquet tables side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites.parquet_images import ParquetImages, cell_key, is_cell
from sectow_fast.data.suites.tables import Row
from sectow_fast.types import UserError


class SuiteImages(FolderImages):
    """Opens keys of files and `cell_key`s."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._cells = ParquetImages(root)

    def open(self, key: str) -> Image.Image:
        return self._cells.open(key) if is_cell(key) else super().open(key)

    def size(self, key: str) -> tuple[int, int]:
        return self._cells.size(key) if is_cell(key) else super().size(key)

    def file(self, key: str) -> Path:
        """The file that holds the picture; a cell's is its table."""
        return self._cells.file(key) if is_cell(key) else super().file(key)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The files that are not there; a cell was seen to hold something when it was read."""
        return super().missing(key for key in keys if not is_cell(key))


def picture_key(root: Path, row: Row, columns: Sequence[str]) -> str:
    """The key of a row's picture: of the first column that has its bytes, else the first path.

    UserError where there is neither.
    """
    values = {name: row.values.get(name) for name in columns}
    for name, value in values.items():
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes) and data:
            return cell_key(root, row.path, row.at, name)
    for value in values.values():
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, str) and path.strip():
            return path
    raise UserError(
        f"{row.where}: found no picture in {' or '.join(map(repr, columns))}; download it again"
    )


def is_blank(value: object) -> bool:
    """Whether a row has no picture in a column: nothing, or a cell without bytes and path."""
    return not (value.get("bytes") or value.get("path") if isinstance(value, dict) else value)
