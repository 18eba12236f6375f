"""RedTeam-2K, the plain requests behind JailBreakV-28K (arXiv 2404.03027). Words only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import converted, forms, root_with
from sectow_fast.data.suites.wording import Wording

FILE = "RedTeam_2K.csv"
PATTERNS = (*forms("RedTeam_2K"), *converted("RedTeam_2K", config="RedTeam_2K"))


class RedTeam2K:
    info = SuiteInfo(
        name="redteam-2k",
        title="RedTeam-2K",
        licence="MIT",
        splits=("2k",),
        layout=FILE,
        counts={"2k": 2000},
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, PATTERNS)

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        columns = ("question", "policy", "from")
        for found in tables.split_rows(root, PATTERNS, columns, ("id",)):
            row, where = found.values, found.where
            question = tables.field(row, "question", where)
            yield SuiteCase(
                id=f"redteam-2k:{split}:{found.number}",
                suite="redteam-2k",
                split=split,
                label="unsafe",
                parts=(("text", question),),
                goal=question,
                category=tables.field(row, "policy", where),
                format="text",
                group=question,
                where=where,
                metadata={name: tables.optional(row, name) for name in ("id", "from")},
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = RedTeam2K()
