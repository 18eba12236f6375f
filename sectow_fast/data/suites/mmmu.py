"""MMMU (Yue et al., arXiv 2311.16502): 30 subjects, multiple choice and open, up to 7 pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.suites import choices, tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.parquet_images import ParquetImages, cell_key
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

COLUMNS = ("id", "question", "options", "answer", "question_type")
PICTURES = tuple(f"image_{number}" for number in range(1, 8))


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
        found = (any(folder.glob(f"*/{split}-*.parquet")) for split in self.info.splits)
        return folder if any(found) else None

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        files = sorted(root.glob(f"*/{split}-*.parquet"))
        if not files:
            raise UserError(f"{root}: found no */{split}-*.parquet; download that split")
        for path in files:
            subject = path.parent.name
            for where, at, row in tables.parquet_rows(path, COLUMNS, (*PICTURES, "subfield")):
                keys = {
                    number: cell_key(root, path, at, name)
                    for number, name in enumerate(PICTURES, start=1)
                    if row.get(name) is not None
                }
                kind = tables.field(row, "question_type", where)
                options = choices.options_of(row["options"], where) if kind != "open" else ()
                order = wording.letter_order if options else wording.word_order
                words = tables.field(row, "question", where)
                text = "\n".join(filter(None, (words, wording.lettered(options), order)))
                yield SuiteCase(
                    id=f"mmmu:{split}:{tables.field(row, 'id', where)}",
                    suite="mmmu",
                    split=split,
                    label="harmless",
                    parts=choices.interleaved(text, keys, where),
                    category=subject,
                    format=kind,
                    group=row["id"],
                    options=options,
                    answer=choices.right_answers(row["answer"]),
                    where=where,
                    metadata={"id": row["id"], "subfield": row.get("subfield") or ""},
                )

    def images(self, root: Path) -> ParquetImages:
        return ParquetImages(root)


SUITE = MMMU()
