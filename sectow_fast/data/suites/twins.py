"""Harmful requests, each beside a harmless one of the same form (`make smol`, or a table of yours).

`twins.csv` has the columns of `COLUMNS`. What one row asks for may stand in other forms: rows with
one `pair` are one prompt. A row of the split `test` is in no training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import forms, root_with
from sectow_fast.data.suites.wording import Wording

FILES = forms("twins")
COLUMNS = ("id", "split", "category", "form", "label", "pair", "request")
SPLITS = ("test", "train")


class Twins:
    info = SuiteInfo(
        name="twins",
        title="Twins",
        licence="Apache-2.0",
        splits=SPLITS,
        plain=SPLITS,
        layout="twins.csv",
        trains_on="train",
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, FILES)

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        for found in tables.split_rows(root, FILES, COLUMNS):
            row, where = found.values, found.where
            mine = tables.one_of(tables.field(row, "split", where), SPLITS, "split", where)
            if mine != split:
                continue
            request = tables.field(row, "request", where)
            said = tables.field(row, "label", where)
            label = tables.one_of(said, ("unsafe", "harmless"), "label", where)
            yield SuiteCase(
                id=f"twins:{split}:{tables.field(row, 'id', where)}",
                suite="twins",
                split=split,
                label="harmless" if label == "harmless" else "unsafe",
                parts=(("text", request),),
                goal=request if label == "unsafe" else None,
                category=tables.field(row, "category", where),
                format=tables.field(row, "form", where),
                group=tables.field(row, "pair", where),
                where=where,
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


SUITE = Twins()
