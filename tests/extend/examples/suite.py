"""A suite in one CSV file, `requests.csv`, with the columns id, request, safe and topic.

python -m sectow_fast.evaluate --plugins suite.py --suite mine=FOLDER
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import SuiteCase, SuiteInfo, register_suite, tables
from sectow_fast.data.suites.wording import Wording

FILE = "requests.csv"


class Mine:
    info = SuiteInfo(
        name="mine", title="My requests", licence="CC-BY-4.0", splits=("test",), layout=FILE
    )

    def find(self, folder: Path) -> Path | None:
        return folder if (folder / FILE).is_file() else None

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        for where, row in tables.csv_rows(root / FILE, ("id", "request", "safe", "topic")):
            request = tables.field(row, "request", where)
            safe = tables.one_of(row["safe"], ("yes", "no"), "safe", where) == "yes"
            yield SuiteCase(
                id=f"mine:{tables.field(row, 'id', where)}",
                suite="mine",
                split=split,
                label="harmless" if safe else "unsafe",
                parts=(("text", request),),
                goal=None if safe else request,
                category=tables.field(row, "topic", where),
                format="text",
                group=request,
                where=where,
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


register_suite(Mine())
