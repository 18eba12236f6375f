"""FigStep (Gong et al., arXiv 2311.05608): the request is a typographic picture of an empty list.

The words alone look harmless, so a judge must be given `goal`, the instruction in the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import converted, every, forms, root_with
from sectow_fast.data.suites.pictures import SuiteImages, picture_key
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

SPLITS = {"safebench": "SafeBench", "tiny": "SafeBench-Tiny"}
# The repository; data/ under another name; the pictures inside of parquet files.
PATTERNS = {
    split: (
        *forms(f"data/question/{name}", f"question/{name}", name),
        *converted(name, split),
    )
    for split, name in SPLITS.items()
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
        return root_with(folder, every(PATTERNS))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        base = "data/" if (root / "data" / "images").is_dir() else ""
        for found in tables.split_rows(root, PATTERNS[split], COLUMNS, ("image",)):
            row, where = found.values, found.where
            numbers = [tables.field(row, column, where) for column in ("category_id", "task_id")]
            if not all(number.isdecimal() for number in numbers):
                raise UserError(
                    f"{where}: found category_id, task_id {', '.join(numbers)}, expected numbers"
                )
            category, task = numbers
            # 1-7 are against the law everywhere, 8-10 ask for advice: reported apart.
            kind = "categories 1-7" if int(category) <= 7 else "categories 8-10"
            key = f"{base}images/{SPLITS[split]}/query_ForbidQI_{category}_{task}_6.png"
            if row.get("image") is not None:
                key = picture_key(root, found, ("image",))
            goal = tables.field(row, "instruction", where)
            yield SuiteCase(
                id=f"figstep:{split}:{category}-{task}",
                suite="figstep",
                split=split,
                label="unsafe",
                parts=(("image", key), ("text", wording.figstep)),
                goal=goal,
                words=goal,
                category=tables.field(row, "category_name", where),
                format=kind,
                group=f"{category}-{task}",
                where=where,
                metadata={"question": tables.optional(row, "question")},
            )

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


SUITE = FigStep()
