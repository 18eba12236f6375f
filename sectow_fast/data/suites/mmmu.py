"""MMMU (Yue et al., arXiv 2311.16502): 30 subjects, multiple choice and open, up to 7 pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import choices, layout, tables
from sectow_fast.data.suites.cases import Refused, SuiteCase, SuiteInfo
from sectow_fast.data.suites.pictures import SuiteImages, is_blank, picture_key
from sectow_fast.data.suites.tables import Row
from sectow_fast.data.suites.wording import Wording

COLUMNS = ("id", "question", "options", "answer", "question_type")
PICTURES = tuple(f"image_{number}" for number in range(1, 8))
# As published, and as the hub's bot converts it.
PATTERNS = {
    split: (f"*/{split}-*.parquet", f"*/{split}/*.parquet") for split in ("validation", "dev")
}


class MMMU:
    info = SuiteInfo(
        name="mmmu",
        title="MMMU",
        licence="Apache-2.0",
        splits=("validation", "dev"),
        layout="a folder a subject, each with validation-00000-of-00001.parquet",
        counts={"validation": 900, "dev": 150},
    )

    def find(self, folder: Path) -> Path | None:
        return layout.root_with(folder, layout.every(PATTERNS))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase | Refused]:
        rows = tables.split_rows(root, PATTERNS[split], COLUMNS, (*PICTURES, "subfield"))

        def make(name: str, number: str, row: Row) -> SuiteCase:
            return self._case(name, number, root, split, row, wording)

        yield from choices.cases_of(rows, f"mmmu:{split}", make)

    def _case(
        self, name: str, number: str, root: Path, split: str, row: Row, wording: Wording
    ) -> SuiteCase:
        values, where = row.values, row.where
        kind = tables.field(values, "question_type", where)
        options = choices.options_of(values["options"]) if kind != "open" else ()
        order = wording.letter_order if options else wording.word_order
        words = tables.field(values, "question", where)
        text = "\n".join(filter(None, (words, wording.lettered(options), order)))
        return SuiteCase(
            id=name,
            suite="mmmu",
            split=split,
            label="harmless",
            parts=choices.interleaved(text, picture_keys(root, row)),
            category=row.path.relative_to(root).parts[0],
            format=kind,
            group=number,
            options=options,
            answer=choices.right_answer(values["answer"], options),
            where=where,
            metadata={"id": number, "subfield": tables.optional(values, "subfield")},
        )

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


def picture_keys(root: Path, row: Row) -> dict[int, str]:
    """The keys of image_1 to image_7 by their numbers, where the row has them."""
    return {
        number: picture_key(root, row, (name,))
        for number, name in enumerate(PICTURES, start=1)
        if not is_blank(row.values.get(name))
    }


SUITE = MMMU()
