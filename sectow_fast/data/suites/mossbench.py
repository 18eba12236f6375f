"""MOSSBench (Li et al., arXiv 2406.17806): 300 harmless requests with pictures that invite refusal.

Its licence forbids training on it.
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

FILE = "data/images_information/information.json"
# The three kinds of the paper; the file has their numbers only.
KINDS = {
    "type 1": "exaggerated risk",
    "type 2": "negated harm",
    "type 3": "counterintuitive interpretation",
}


class MOSSBench:
    info = SuiteInfo(
        name="mossbench",
        title="MOSSBench",
        licence="no training use",
        splits=("test",),
        layout=f"{FILE} and data/images/",
        counts={"test": 300},
        trains=False,
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, (FILE,), below=("MOSSBench",))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        path = root / FILE
        for number, row in tables.json_file(path, dict).items():
            where = f"{path} id {number}"
            if not isinstance(row, dict):
                raise UserError(f"{where}: found {row!r:.40}, expected an object")
            question = tables.field(row, "question", where)
            more = row.get("metadata")
            kind = str(more.get("over", "")) if isinstance(more, dict) else ""
            yield SuiteCase(
                id=f"mossbench:{split}:{number}",
                suite="mossbench",
                split=split,
                label="harmless",
                parts=(("image", self._picture(root, row, where)), ("text", question)),
                category=KINDS.get(kind, kind or "unknown kind"),
                format="image+text",
                group=number,
                where=where,
            )

    def _picture(self, root: Path, row: dict, where: str) -> str:
        pid = tables.field(row, "pid", where)
        # The repository has some pictures as .webp under the name that the file calls .png.
        for ending in ("png", "webp"):
            if (root / "data" / "images" / f"{pid}.{ending}").is_file():
                return f"data/images/{pid}.{ending}"
        return f"data/images/{pid}.png"

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = MOSSBench()
