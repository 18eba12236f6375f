"""MOSSBench (Li et al., arXiv 2406.17806): 300 harmless requests with pictures that invite refusal.

It is read from the repository's folders or from the hub's: metadata.csv beside images/, or parquet
files with the pictures in them. Its licence forbids training on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import layout, tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.parquet_images import is_cell
from sectow_fast.data.suites.pictures import SuiteImages, picture_key
from sectow_fast.data.suites.tables import Row
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

FILE = "data/images_information/information.json"
RECORDS = (FILE, "images_information/information.json")
TABLES = ("metadata.csv", *layout.forms("mossbench"), *layout.converted("train", "test"))
# A table's column that has the picture, and the one that has the kind.
PICTURES = ("image", "file_name", "image_path")
OVER = ("metadata_over", "meta_data_over", "metadata.over", "over")
MORE = (*PICTURES, *OVER, "metadata")
# The three kinds of the paper; the file has their numbers only.
KINDS = {
    "type 1": "exaggerated risk",
    "type 2": "negated harm",
    "type 3": "counterintuitive interpretation",
}


class MOSSBench:
    info = SuiteInfo(
        name="mossbench",
        title="MOSSBench",
        licence="no training use",
        splits=("test",),
        layout=f"{FILE} and data/images/",
        counts={"test": 300},
        trains=False,
    )

    def find(self, folder: Path) -> Path | None:
        return layout.root_with(folder, (*RECORDS, *TABLES))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        for number, row, key, where in self._rows(root):
            question = tables.field(row, "question", where)
            kind = _kind(row)
            yield SuiteCase(
                id=f"mossbench:{split}:{number}",
                suite="mossbench",
                split=split,
                label="harmless",
                parts=(("image", key), ("text", question)),
                category=KINDS.get(kind, kind or "unknown kind"),
                format="image+text",
                group=number,
                where=where,
            )

    def _rows(self, root: Path) -> Iterator[tuple[str, Mapping[str, Any], str, str]]:
        """(number, row, the picture's key, where)."""
        if not layout.has(root, RECORDS):
            for row in tables.split_rows(root, TABLES, ("pid", "question"), MORE):
                number = tables.field(row.values, "pid", row.where)
                yield number, row.values, _picture(root, row), row.where
            return
        (path,) = layout.files(root, RECORDS)
        pictures = path.parents[1].relative_to(root) / "images"
        for number, values in tables.json_file(path, dict).items():
            where = f"{path} id {number}"
            if not isinstance(values, dict):
                raise UserError(f"{where}: found {values!r:.40}, expected an object")
            key = (pictures / f"{tables.field(values, 'pid', where)}.png").as_posix()
            yield number, values, _as_named(root, key), where

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


def _picture(root: Path, row: Row) -> str:
    key = picture_key(root, row, PICTURES)
    if is_cell(key):
        return key
    return _as_named(root, key if "/" in key else f"images/{key}")


def _as_named(root: Path, key: str) -> str:
    """The repository has some pictures as .webp under the name that its records call .png."""
    other = key.removesuffix(".png") + ".webp"
    return other if not (root / key).is_file() and (root / other).is_file() else key


def _kind(row: Mapping[str, Any]) -> str:
    """The number of the kind ("type 1"): in the records' metadata, in a table's own column."""
    more = row.get("metadata")
    if isinstance(more, dict):
        return tables.optional(more, "over")
    return next((tables.optional(row, name) for name in OVER if name in row), "")


SUITE = MOSSBench()
