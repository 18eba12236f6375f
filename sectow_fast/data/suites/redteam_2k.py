"""RedTeam-2K, the plain requests behind JailBreakV-28K (arXiv 2404.03027). Words only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import root_with
from sectow_fast.data.suites.wording import Wording

FILE = "RedTeam_2K.csv"


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
        return root_with(folder, (FILE,), below=("JailBreakV_28K",))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        rows = tables.csv_rows(root / FILE, ("question", "policy", "from"))
        for number, (where, row) in enumerate(rows, start=1):
            question = tables.field(row, "question", where)
            yield SuiteCase(
                id=f"redteam-2k:{split}:{number}",
                suite="redteam-2k",
                split=split,
                label="unsafe",
                parts=(("text", question),),
                goal=question,
                category=tables.field(row, "policy", where),
                format="text",
                group=question,
                where=where,
                metadata={"id": row.get("id") or "", "from": row["from"] or ""},
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = RedTeam2K()
