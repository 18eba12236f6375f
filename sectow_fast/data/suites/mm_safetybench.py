"""MM-SafetyBench (Liu et al., arXiv 2311.17600): 13 scenarios, each question with three pictures.

It is read from the repository's folders, or from the hub's parquet mirror (one folder per category,
one file per format), or from what the hub's bot made of that. CC-BY-NC: never passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import layout, tables
from sectow_fast.data.suites.cases import Part, SuiteCase, SuiteInfo
from sectow_fast.data.suites.pictures import SuiteImages, picture_key
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

# Which question goes with which picture: the SD picture shows the scene itself.
WORDS = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
TEXT_ONLY = "Text_only"
QUESTIONS = "processed_questions"
TINY = "TinyVersion_ID_List.json"
# Under FOLDER/SCENARIO/, for a format.
MIRRORS = ("data/{}/{}.parquet", "{}/{}.parquet", "{}/{}/*.parquet", "{}/{}-*.parquet")


class MMSafetyBench:
    info = SuiteInfo(
        name="mm-safetybench",
        title="MM-SafetyBench",
        licence="CC-BY-NC-4.0",
        splits=("full", "tiny", "text"),
        plain=("text",),
        layout="data/processed_questions/NN-Scenario.json and data/imgs/NN-Scenario/"
        "{SD,SD_TYPO,TYPO}/, or the hub's data/Scenario/{SD,SD_TYPO,TYPO}.parquet",
        counts={"full": 5040, "tiny": 504, "text": 1680},
        redistributes=False,
    )

    def find(self, folder: Path) -> Path | None:
        questions = ("data/processed_questions/*.json", "processed_questions/*.json")
        mirrors = [one.format("*", kind) for one in MIRRORS for kind in (*WORDS, TEXT_ONLY)]
        return layout.root_with(folder, (*questions, *mirrors))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        tiny = _tiny_ids(layout.files(root, (TINY,))[0]) if split == "tiny" else None
        formats = (TEXT_ONLY,) if split == "text" else tuple(WORDS)
        base = next((one for one in ("data/", "") if (root / f"{one}{QUESTIONS}").is_dir()), None)
        if base is not None:
            yield from self._from_json(root, base, split, tiny, formats)
        else:
            yield from self._from_parquet(root, split, tiny, formats)

    def _from_json(
        self, root: Path, base: str, split: str, tiny: Any, formats: tuple[str, ...]
    ) -> Iterator[SuiteCase]:
        for path in layout.files(root, (f"{base}{QUESTIONS}/*.json",)):
            for number, row in tables.json_file(path, dict).items():
                where = f"{path} id {number}"
                if not isinstance(row, dict):
                    raise UserError(f"{where}: found {row!r:.40}, expected an object")
                if tiny is not None and number not in tiny.get(path.stem, ()):
                    continue
                goal = tables.field(row, "Question", where)
                for kind in formats:
                    key = f"{base}imgs/{path.stem}/{kind}/{number}.jpg"
                    column = WORDS.get(kind, "Changed Question")
                    yield _case(
                        split, path.stem, number, kind, tables.field(row, column, where), goal,
                        None if kind == TEXT_ONLY else key, where,
                    )  # fmt: skip

    def _from_parquet(
        self, root: Path, split: str, tiny: Any, formats: tuple[str, ...]
    ) -> Iterator[SuiteCase]:
        wanted = {name.split("-", 1)[-1]: ids for name, ids in (tiny or {}).items()}
        for scenario in _scenarios(root):
            plain = [one.format(scenario, TEXT_ONLY) for one in MIRRORS]
            goals = {
                tables.field(row.values, "id", row.where): tables.field(
                    row.values, "question", row.where
                )
                for row in tables.split_rows(root, plain, ("id", "question"))
            }
            for kind in formats:
                paths = [one.format(scenario, kind) for one in MIRRORS]
                needed = ("id", "question") if kind == TEXT_ONLY else ("id", "question", "image")
                for row in tables.split_rows(root, paths, needed):
                    number = tables.field(row.values, "id", row.where)
                    if tiny is not None and number not in wanted.get(scenario, ()):
                        continue
                    if number not in goals:
                        raise UserError(
                            f"{row.where}: found id {number}, which {TEXT_ONLY} has not"
                        )
                    words = tables.field(row.values, "question", row.where)
                    key = None if kind == TEXT_ONLY else picture_key(root, row, ("image",))
                    yield _case(split, scenario, number, kind, words, goals[number], key, row.where)

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


def _scenarios(root: Path) -> list[str]:
    """The folders of the mirror that hold a format, in order."""
    base = root / "data" if (root / "data").is_dir() else root
    found = [
        path.name
        for path in base.iterdir()
        if path.is_dir() and (any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")))
    ]
    return sorted(found)


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
        words=goal,
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
