"""MM-SafetyBench (Liu et al., arXiv 2311.17600): 13 scenarios, each question with three pictures.

It is read from the repository's folders, or from the hub's parquet mirror (one folder per category,
one file per format). CC-BY-NC: never passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sectow_fast.data.images import FolderImages, ImageStore
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import Part, SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import root_with
from sectow_fast.data.suites.parquet_images import ParquetImages, cell_key
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

# Which question goes with which picture: the SD picture shows the scene itself.
WORDS = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
TEXT_ONLY = "Text_only"
QUESTIONS = "data/processed_questions"
TINY = "TinyVersion_ID_List.json"


class MMSafetyBench:
    info = SuiteInfo(
        name="mm-safetybench",
        title="MM-SafetyBench",
        licence="CC-BY-NC-4.0",
        splits=("full", "tiny", "text"),
        layout="data/processed_questions/NN-Scenario.json and data/imgs/NN-Scenario/"
        "{SD,SD_TYPO,TYPO}/, or the hub's data/Scenario/{SD,SD_TYPO,TYPO}.parquet",
        counts={"full": 5040, "tiny": 504, "text": 1680},
        redistributes=False,
    )

    def find(self, folder: Path) -> Path | None:
        found = root_with(folder, (QUESTIONS,), below=("MM-SafetyBench",))
        if found is None and any(folder.glob("data/*/SD*.parquet")):
            return folder
        return found

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        tiny = _tiny_ids(root / TINY) if split == "tiny" else None
        formats = (TEXT_ONLY,) if split == "text" else tuple(WORDS)
        if (root / QUESTIONS).is_dir():
            yield from self._from_json(root, split, tiny, formats)
        else:
            yield from self._from_parquet(root, split, tiny, formats)

    def _from_json(
        self, root: Path, split: str, tiny: Any, formats: tuple[str, ...]
    ) -> Iterator[SuiteCase]:
        files = sorted((root / QUESTIONS).glob("*.json"))
        if not files:
            raise UserError(f"{root / QUESTIONS}: found no NN-Scenario.json; download it again")
        for path in files:
            for number, row in tables.json_file(path, dict).items():
                where = f"{path} id {number}"
                if not isinstance(row, dict):
                    raise UserError(f"{where}: found {row!r:.40}, expected an object")
                if tiny is not None and number not in tiny.get(path.stem, ()):
                    continue
                goal = tables.field(row, "Question", where)
                for kind in formats:
                    key = f"data/imgs/{path.stem}/{kind}/{number}.jpg"
                    column = WORDS.get(kind, "Changed Question")
                    yield _case(
                        split, path.stem, number, kind, tables.field(row, column, where), goal,
                        None if kind == TEXT_ONLY else key, where,
                    )  # fmt: skip

    def _from_parquet(
        self, root: Path, split: str, tiny: Any, formats: tuple[str, ...]
    ) -> Iterator[SuiteCase]:
        wanted = {name.split("-", 1)[-1]: ids for name, ids in (tiny or {}).items()}
        for folder in sorted(path for path in (root / "data").iterdir() if path.is_dir()):
            plain = folder / f"{TEXT_ONLY}.parquet"
            goals = {
                str(row["id"]): tables.field(row, "question", where)
                for where, _, row in tables.parquet_rows(plain, ("id", "question"))
            }
            for kind in formats:
                path = folder / f"{kind}.parquet"
                needed = ("id", "question") if kind == TEXT_ONLY else ("id", "question", "image")
                for where, at, row in tables.parquet_rows(path, needed):
                    number = str(row["id"])
                    if tiny is not None and number not in wanted.get(folder.name, ()):
                        continue
                    if number not in goals:
                        raise UserError(f"{where}: found id {number}, which {plain} has not")
                    if kind != TEXT_ONLY and row["image"] is None:
                        raise UserError(f"{where}: found no image; download it again")
                    words = tables.field(row, "question", where)
                    key = None if kind == TEXT_ONLY else cell_key(root, path, at, "image")
                    yield _case(split, folder.name, number, kind, words, goals[number], key, where)

    def images(self, root: Path) -> ImageStore:
        return FolderImages(root) if (root / QUESTIONS).is_dir() else ParquetImages(root)


def _case(
    split: str, scenario: str, number: str, kind: str, words: str, goal: str, key: str | None,
    where: str,
) -> SuiteCase:  # fmt: skip
    shown: tuple[Part, ...] = () if key is None else (("image", key),)
    return SuiteCase(
        id=f"mm-safetybench:{split}:{scenario}:{number}:{kind}",
        suite="mm-safetybench",
        split=split,
        label="unsafe",
        parts=(*shown, ("text", words)),
        goal=goal,
        category=scenario,
        format=kind,
        group=f"{scenario}:{number}",
        where=where,
        metadata={"id": number},
    )


def _tiny_ids(path: Path) -> dict[str, set[str]]:
    rows = tables.json_file(path, list)
    try:
        return {row["Scenario"]: {str(one) for one in row["Sampled_ID_List"]} for row in rows}
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: found no {error}, expected a list of Scenario and Sampled_ID_List"
        ) from None


SUITE = MMSafetyBench()
