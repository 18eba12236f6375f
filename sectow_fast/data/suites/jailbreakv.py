"""JailBreakV-28K (Luo et al., arXiv 2404.03027): jailbreak prompts, each with a picture.

20,000 of the 28,000 rows are 5,000 prompts with four pictures each: a case's group is
its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import converted, every, forms, root_with
from sectow_fast.data.suites.pictures import SuiteImages, picture_key
from sectow_fast.data.suites.wording import Wording

PATTERNS = {
    split: (*forms(stem), *converted(stem, config="JailBreakV_28K"))
    for split, stem in (("28k", "JailBreakV_28K"), ("mini", "mini_JailBreakV_28K"))
}
FORMATS = ("Template", "Logic", "Persuade", "figstep", "SD", "typo", "SD_typo")
IN_WORDS = FORMATS[:3]  # their pictures say nothing; those of the others hold the request
COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy")
PICTURES = ("image_path", "image")
MORE = ("from", "transfer_from_llm", "selected_mini")


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
        return root_with(folder, every(PATTERNS))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        for found in tables.split_rows(root, PATTERNS[split], COLUMNS, (*PICTURES, *MORE)):
            row, where = found.values, found.where
            prompt = tables.field(row, "jailbreak_query", where)
            goal = tables.field(row, "redteam_query", where)
            kind = tables.one_of(tables.field(row, "format", where), FORMATS, "format", where)
            # Rows of figstep and SD share one wording, and differ in what they are after.
            yield SuiteCase(
                id=f"jailbreakv:{split}:{found.number}",
                suite="jailbreakv",
                split=split,
                label="unsafe",
                parts=(("image", picture_key(root, found, PICTURES)), ("text", prompt)),
                goal=goal,
                words=prompt if kind in IN_WORDS else goal,
                category=tables.field(row, "policy", where),
                format=kind,
                group=f"{prompt}\n{goal}",
                where=where,
                metadata={name: tables.optional(row, name) for name in ("id", *MORE, "format")},
            )

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


SUITE = JailBreakV()
