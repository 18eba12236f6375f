"""MMMU-Pro (Yue et al., arXiv 2409.02813): ten options, or the whole question inside a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.suites import choices, tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.mmmu import PICTURES
from sectow_fast.data.suites.parquet_images import ParquetImages, cell_key
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

FOLDERS = {
    "standard-10": "standard (10 options)",
    "standard-4": "standard (4 options)",
    "vision": "vision",
}


class MMMUPro:
    info = SuiteInfo(
        name="mmmu-pro",
        title="MMMU-Pro",
        licence="Apache-2.0",
        splits=tuple(FOLDERS),
        layout="'standard (10 options)/', 'standard (4 options)/' and 'vision/'",
        counts=dict.fromkeys(FOLDERS, 1730),
    )

    def find(self, folder: Path) -> Path | None:
        return folder if any((folder / name).is_dir() for name in FOLDERS.values()) else None

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        files = sorted((root / FOLDERS[split]).glob("test-*.parquet"))
        if not files:
            raise UserError(
                f"{root / FOLDERS[split]}: found no test-*.parquet; download that split"
            )
        needed = ("id", "options", "answer", "subject")
        needed += ("image",) if split == "vision" else ("question",)
        for path in files:
            for where, at, row in tables.parquet_rows(path, needed, PICTURES):
                options = choices.options_of(row["options"], where)
                if split == "vision":
                    if row["image"] is None:
                        raise UserError(f"{where}: found no image; download it again")
                    keys, text = {1: cell_key(root, path, at, "image")}, wording.letter_order
                else:
                    keys = {
                        number: cell_key(root, path, at, name)
                        for number, name in enumerate(PICTURES, start=1)
                        if row.get(name) is not None
                    }
                    words = tables.field(row, "question", where)
                    text = "\n".join((words, wording.lettered(options), wording.letter_order))
                yield SuiteCase(
                    id=f"mmmu-pro:{split}:{tables.field(row, 'id', where)}",
                    suite="mmmu-pro",
                    split=split,
                    label="harmless",
                    parts=choices.interleaved(text, keys, where),
                    category=tables.field(row, "subject", where),
                    format=split,
                    group=row["id"],
                    options=options,
                    answer=tables.field(row, "answer", where).strip(),
                    where=where,
                    metadata={"id": row["id"]},
                )

    def images(self, root: Path) -> ParquetImages:
        return ParquetImages(root)


SUITE = MMMUPro()
