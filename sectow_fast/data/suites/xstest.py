"""XSTest (Roettger et al., arXiv 2308.01263): 250 safe prompts, 200 unsafe ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import root_with
from sectow_fast.data.suites.wording import Wording

FILE = "xstest_prompts.csv"


class XSTest:
    info = SuiteInfo(
        name="xstest",
        title="XSTest",
        licence="CC-BY",
        splits=("prompts",),
        layout=FILE,
        counts={"prompts": 450},
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, (FILE,), below=("xstest",))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        columns = ("id", "prompt", "type", "label")
        for where, row in tables.csv_rows(root / FILE, columns):
            label = tables.one_of(row["label"], ("safe", "unsafe"), "label", where)
            prompt = tables.field(row, "prompt", where)
            yield SuiteCase(
                id=f"xstest:{split}:{tables.field(row, 'id', where)}",
                suite="xstest",
                split=split,
                label="harmless" if label == "safe" else "unsafe",
                parts=(("text", prompt),),
                goal=prompt if label == "unsafe" else None,
                category=tables.field(row, "type", where),
                format="text",
                group=prompt,
                where=where,
                metadata={"focus": row.get("focus") or "", "note": row.get("note") or ""},
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = XSTest()
