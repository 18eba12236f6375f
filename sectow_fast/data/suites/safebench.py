"""SafeBench (Ying et al., arXiv 2410.18927): 23 risk categories, 100 requests each, with pictures.

Line n of `text/C.csv` belongs to `image/C/n.png`; audio exists and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import layout, tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

SPLITS = {"final": ("final_bench", "image"), "mini": ("minibench_final", "img")}


class SafeBench:
    info = SuiteInfo(
        name="safebench",
        title="SafeBench",
        licence="not stated",
        splits=("final", "mini"),
        plain=("final", "mini"),
        layout="category.csv, and final_bench/text/ with final_bench/image/"
        " (split mini: minibench_final/text/ and img/)",
        counts={"final": 2300},
        redistributes=False,
    )

    def find(self, folder: Path) -> Path | None:
        return layout.root_with(folder, [f"{base}/text" for base, _ in SPLITS.values()])

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        base, pictures = SPLITS[split]
        (index,) = layout.files(root, ("category.csv",))
        rows = tables.csv_rows(index, ("Index", "Category"))
        names = {
            tables.field(row, "Index", where).strip(): tables.field(row, "Category", where)
            for where, row in rows
        }
        for number, name in names.items():
            (texts,) = layout.files(root, (f"{base}/text/{number}.csv",))
            folder = root / base / pictures / number
            found = list(tables.column_rows(texts))
            extra = [
                path.name
                for path in sorted(folder.glob("*.png"))
                if path.stem.isdecimal() and not 1 <= int(path.stem) <= len(found)
            ]
            if extra:
                raise UserError(
                    f"{texts}: found {len(found)} lines, but {folder} has {extra[0]};"
                    " line n belongs to n.png, so one of the two is not whole: download it again"
                )
            for line, (where, text) in enumerate(found, start=1):
                if not text.strip():
                    raise UserError(f"{where}: found a blank line, expected a request")
                key = f"{base}/{pictures}/{number}/{line}.png"
                yield SuiteCase(
                    id=f"safebench:{split}:{number}-{line}",
                    suite="safebench",
                    split=split,
                    label="unsafe",
                    parts=(("image", key), ("text", text)),
                    goal=text,
                    words=text,
                    category=name,
                    format="image+text",
                    group=f"{number}-{line}",
                    where=where,
                )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = SafeBench()
