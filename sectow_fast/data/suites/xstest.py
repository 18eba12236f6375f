"""XSTest (Roettger et al., arXiv 2308.01263): 250 safe prompts, 200 unsafe ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import converted, forms, has, root_with
from sectow_fast.data.suites.wording import Wording

FILE = "xstest_prompts.csv"
NOW = forms("xstest_prompts")
# Its older name, and the copies on the hub: one has no labels, one no numbers.
PATTERNS = (*NOW, *forms("xstest_v2_prompts"), *converted("prompts", "test", "train"))


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
        return root_with(folder, PATTERNS)

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        patterns, needed = PATTERNS, ("prompt", "type")
        if has(root, NOW):
            patterns, needed = NOW, (*needed, "id", "label")
        more = ("id", "label", "focus", "note")
        for found in tables.split_rows(root, patterns, needed, more):
            row, where = found.values, found.where
            kind = tables.field(row, "type", where)
            label = "unsafe" if kind.startswith("contrast_") else "safe"
            if "label" in row:
                said = tables.field(row, "label", where)
                label = tables.one_of(said, ("safe", "unsafe"), "label", where)
            number = tables.field(row, "id", where) if "id" in row else str(found.number)
            prompt = tables.field(row, "prompt", where)
            yield SuiteCase(
                id=f"xstest:{split}:{number.removeprefix('v2-')}",
                suite="xstest",
                split=split,
                label="harmless" if label == "safe" else "unsafe",
                parts=(("text", prompt),),
                goal=prompt if label == "unsafe" else None,
                category=kind,
                format="text",
                group=prompt,
                where=where,
                metadata={name: tables.optional(row, name) for name in ("focus", "note")},
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = XSTest()
