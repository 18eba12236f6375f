"""JailBreakV-28K (Luo et al., arXiv 2404.03027): jailbreak prompts, each with a picture.

20,000 of the 28,000 rows are 5,000 prompts with four pictures each: a case's group is
its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import root_with
from sectow_fast.data.suites.wording import Wording

FILES = {"28k": "JailBreakV_28K.csv", "mini": "mini_JailBreakV_28K.csv"}
FORMATS = ("Template", "Logic", "Persuade", "figstep", "SD", "typo", "SD_typo")
COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path")


class JailBreakV:
    info = SuiteInfo(
        name="jailbreakv",
        title="JailBreakV-28K",
        licence="MIT",
        splits=("28k", "mini"),
        layout="JailBreakV_28K.csv (split mini: mini_JailBreakV_28K.csv) beside the picture folders"
        " figstep/, llm_transfer_attack/ and query_related/",
        counts={"28k": 28_000, "mini": 280},
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, tuple(FILES.values()), below=("JailBreakV_28K",))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        path = root / FILES[split]
        for number, (where, row) in enumerate(tables.csv_rows(path, COLUMNS), start=1):
            prompt = tables.field(row, "jailbreak_query", where)
            goal = tables.field(row, "redteam_query", where)
            kind = tables.one_of(row["format"], FORMATS, "format", where)
            # Rows of figstep and SD share one wording, and differ in what they are after.
            yield SuiteCase(
                id=f"jailbreakv:{split}:{number}",
                suite="jailbreakv",
                split=split,
                label="unsafe",
                parts=(("image", tables.field(row, "image_path", where)), ("text", prompt)),
                goal=goal,
                category=tables.field(row, "policy", where),
                format=kind,
                group=f"{prompt}\n{goal}",
                where=where,
                metadata={
                    "id": row["id"],
                    "from": row.get("from") or "",
                    "transfer_from_llm": row.get("transfer_from_llm") or "",
                    "selected_mini": row.get("selected_mini") or "",
                    "format": row["format"],
                },
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = JailBreakV()
