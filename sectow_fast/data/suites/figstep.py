"""FigStep (Gong et al., arXiv 2311.05608): the request is a typographic picture of an empty list.

The words alone look harmless, so a judge must be given `goal`, the instruction in the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import root_with
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

SPLITS = {
    "safebench": ("safebench.csv", "SafeBench"),
    "tiny": ("SafeBench-Tiny.csv", "SafeBench-Tiny"),
}
COLUMNS = ("category_id", "task_id", "category_name", "question", "instruction")


class FigStep:
    info = SuiteInfo(
        name="figstep",
        title="FigStep",
        licence="MIT",
        splits=("safebench", "tiny"),
        layout="data/question/safebench.csv (split tiny: SafeBench-Tiny.csv) and data/images/",
        counts={"safebench": 500, "tiny": 50},
    )

    def find(self, folder: Path) -> Path | None:
        names = tuple(f"data/question/{name}" for name, _ in SPLITS.values())
        return root_with(folder, names, below=("FigStep",))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        name, pictures = SPLITS[split]
        for where, row in tables.csv_rows(root / "data" / "question" / name, COLUMNS):
            numbers = [tables.field(row, column, where) for column in ("category_id", "task_id")]
            if not all(number.isdecimal() for number in numbers):
                raise UserError(
                    f"{where}: found category_id, task_id {', '.join(numbers)}, expected numbers"
                )
            category, task = numbers
            # 1-7 are against the law everywhere, 8-10 ask for advice: reported apart.
            kind = "categories 1-7" if int(category) <= 7 else "categories 8-10"
            key = f"data/images/{pictures}/query_ForbidQI_{category}_{task}_6.png"
            yield SuiteCase(
                id=f"figstep:{split}:{category}-{task}",
                suite="figstep",
                split=split,
                label="unsafe",
                parts=(("image", key), ("text", wording.figstep)),
                goal=tables.field(row, "instruction", where),
                category=tables.field(row, "category_name", where),
                format=kind,
                group=f"{category}-{task}",
                where=where,
                metadata={"question": row["question"] or ""},
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = FigStep()
