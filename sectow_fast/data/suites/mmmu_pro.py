"""MMMU-Pro (Yue et al., arXiv 2409.02813): ten options, or the whole question inside a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import choices, layout, tables
from sectow_fast.data.suites.cases import Refused, SuiteCase, SuiteInfo
from sectow_fast.data.suites.mmmu import PICTURES, picture_keys
from sectow_fast.data.suites.pictures import SuiteImages, picture_key
from sectow_fast.data.suites.tables import Row
from sectow_fast.data.suites.wording import Wording

FOLDERS = {
    "standard-10": "standard (10 options)",
    "standard-4": "standard (4 options)",
    "vision": "vision",
}
PATTERNS = {
    split: (f"{name}/test-*.parquet", f"{name}/test/*.parquet") for split, name in FOLDERS.items()
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
        return layout.root_with(folder, layout.every(PATTERNS))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase | Refused]:
        needed = ("id", "options", "answer", "subject")
        needed += ("image",) if split == "vision" else ("question",)
        rows = tables.split_rows(root, PATTERNS[split], needed, PICTURES)

        def make(name: str, number: str, row: Row) -> SuiteCase:
            return self._case(name, number, root, split, row, wording)

        yield from choices.cases_of(rows, f"mmmu-pro:{split}", make)

    def _case(
        self, name: str, number: str, root: Path, split: str, row: Row, wording: Wording
    ) -> SuiteCase:
        values, where = row.values, row.where
        options = choices.options_of(values["options"])
        if split == "vision":
            keys, text = {1: picture_key(root, row, ("image",))}, wording.letter_order
        else:
            words = tables.field(values, "question", where)
            text = "\n".join((words, wording.lettered(options), wording.letter_order))
            keys = picture_keys(root, row)
        return SuiteCase(
            id=name,
            suite="mmmu-pro",
            split=split,
            label="harmless",
            parts=choices.interleaved(text, keys),
            category=tables.field(values, "subject", where),
            format=split,
            group=number,
            options=options,
            answer=choices.right_answer(values["answer"], options),
            where=where,
            metadata={"id": number},
        )

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


SUITE = MMMUPro()
