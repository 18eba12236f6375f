"""OR-Bench (Cui et al., arXiv 2405.20947): harmless prompts that models refuse; and toxic ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import converted, every, forms, root_with
from sectow_fast.data.suites.wording import Wording

SPLITS = ("hard-1k", "80k", "toxic")
PATTERNS = {
    split: (*forms(f"or-bench-{split}"), *converted("train", config=f"or-bench-{split}"))
    for split in SPLITS
}


class ORBench:
    info = SuiteInfo(
        name="or-bench",
        title="OR-Bench",
        licence="CC-BY-4.0",
        splits=SPLITS,
        layout="or-bench-hard-1k.csv, or-bench-80k.csv, or-bench-toxic.csv",
        counts={"hard-1k": 1319, "toxic": 655},
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, every(PATTERNS))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        for found in tables.split_rows(root, PATTERNS[split], ("prompt", "category")):
            row, where = found.values, found.where
            prompt = tables.field(row, "prompt", where)
            yield SuiteCase(
                id=f"or-bench:{split}:{found.number}",
                suite="or-bench",
                split=split,
                label="unsafe" if split == "toxic" else "harmless",
                parts=(("text", prompt),),
                goal=prompt if split == "toxic" else None,
                category=tables.field(row, "category", where),
                format="text",
                group=prompt,
                where=where,
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = ORBench()
