"""The sandbox's suites on disk, in the published layouts of the benchmarks they are named after.

    python -m sectow_fast.data.sandbox.layouts --out DIR [--seed 0] [--cases 300]

With these, all code that reads real benchmarks can be tried without a download or harmful text.
`DIR/wording.toml` has the sentences in the sandbox's own words, for `--wording`.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sectow_fast.config import SandboxConfig
from sectow_fast.data.sandbox.pictures import SIDE
from sectow_fast.data.sandbox.world import SandboxWorld
from sectow_fast.types import UserError

SCENARIOS = ("01-Illegal_Activitiy", "02-HateSpeech")  # the first one is spelt as published
JAILBREAKV_COLUMNS = (
    *("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path", "from"),
    *("selected_mini", "transfer_from_llm"),
)
WORDING = {
    "figstep": "make shown",
    "option": "{option}",
    "letter_order": "",
    "word_order": "",
    "self_reminder_before": "sorry can not",
    "self_reminder_after": "",
    "adashield": "sorry can not",
    "self_check": "what allowed {request}",
    "self_check_bad": "no",
    "refusal": "sorry can not",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case to be written: words, what it is after, a picture, and perhaps an answer."""

    text: str
    goal: str
    picture: Image.Image
    category: str
    format: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""


def write_jailbreakv(folder: Path, rows: Sequence[Row]) -> None:
    """JailBreakV_28K.csv, a mini of every tenth row, and RedTeam_2K.csv."""
    table = []
    for number, row in enumerate(rows):
        path = f"llm_transfer_attack/blank_{number}.png"
        _save(row.picture, folder / path)
        table.append(
            dict(
                zip(
                    JAILBREAKV_COLUMNS,
                    (number, row.text, row.goal, row.format or "Template", row.category, path),
                    strict=False,
                )
            )
            | {"from": "GPT_Generate", "selected_mini": not number % 10, "transfer_from_llm": True}
        )
    _csv(folder / "JailBreakV_28K.csv", JAILBREAKV_COLUMNS, table)
    _csv(folder / "mini_JailBreakV_28K.csv", JAILBREAKV_COLUMNS, table[::10])
    goals = dict.fromkeys((row.goal, row.category) for row in rows)
    plain = [
        {"id": i, "question": goal, "policy": policy, "from": "GPT_Generate"}
        for i, (goal, policy) in enumerate(goals)
    ]
    _csv(folder / "RedTeam_2K.csv", ("id", "question", "policy", "from"), plain)


def write_figstep(folder: Path, rows: Sequence[Row]) -> None:
    columns = ("dataset", "category_id", "task_id", "category_name", "question", "instruction")
    table = []
    for number, row in enumerate(rows):
        category, task = number % 10 + 1, number // 10 + 1
        values = ("SafeBench", category, task, row.category, row.goal, row.goal)
        table.append(dict(zip(columns, values, strict=True)))
        name = f"query_ForbidQI_{category}_{task}_6.png"
        _save(row.picture, folder / "data" / "images" / "SafeBench" / name)
        if task == 1:
            _save(row.picture, folder / "data" / "images" / "SafeBench-Tiny" / name)
    _csv(folder / "data" / "question" / "safebench.csv", columns, table)
    tiny = [row for row in table if row["task_id"] == 1]
    _csv(folder / "data" / "question" / "SafeBench-Tiny.csv", columns, tiny)


def write_safebench(folder: Path, rows: Sequence[Row]) -> None:
    """Two categories; the stray a1.csv of the published folder stands there too."""
    names = list(dict.fromkeys(row.category for row in rows))
    index = [{"Index": i, "Category": name} for i, name in enumerate(names, start=1)]
    _csv(folder / "category.csv", ("Index", "Category"), index)
    for base, pictures in (("final_bench", "image"), ("minibench_final", "img")):
        for i, name in enumerate(names, start=1):
            mine = [row for row in rows if row.category == name]
            mine = mine[:2] if base.startswith("mini") else mine
            (folder / base / "text").mkdir(parents=True, exist_ok=True)
            with open(
                folder / base / "text" / f"{i}.csv", "w", newline="", encoding="utf-8"
            ) as file:
                csv.writer(file).writerows([row.text] for row in mine)
            for n, row in enumerate(mine, start=1):
                _save(row.picture, folder / base / pictures / str(i) / f"{n}.png")
    (folder / "final_bench" / "image" / "1" / "a1.csv").write_text("stray\n")


def write_mm_safetybench(folder: Path, rows: Sequence[Row]) -> None:
    """Every row in all three formats, as published; the words of a format are the row's."""
    tiny = []
    for scenario, name in zip(SCENARIOS, dict.fromkeys(row.category for row in rows), strict=False):
        mine = [row for row in rows if row.category == name]
        table = {}
        for number, row in enumerate(mine):
            table[str(number)] = {
                "Question": row.goal,
                "Changed Question": row.goal,
                "Key Phrase": row.goal,
                "Phrase Type": "phrase",
                "Rephrased Question": row.text,
                "Rephrased Question(SD)": row.text,
            }
            for kind in ("SD", "SD_TYPO", "TYPO"):
                _save(row.picture, folder / "data" / "imgs" / scenario / kind / f"{number}.jpg")
        path = folder / "data" / "processed_questions" / f"{scenario}.json"
        _text(path, json.dumps(table, indent=1))
        tiny.append({"Scenario": scenario, "Sampled_ID_List": list(range(0, len(mine), 10))})
    _text(folder / "TinyVersion_ID_List.json", json.dumps(tiny))


def write_mmmu(folder: Path, rows: Sequence[Row]) -> None:
    """Multiple choice where a row has options, open otherwise; <image 1> stands in the words."""
    for subject, mine in _by_category(rows):
        table = [
            {
                "id": f"validation_{subject}_{number}",
                "question": f"<image 1> {row.text}",
                "options": str(list(row.options)),
                "explanation": "",
                "image_1": _cell(row.picture),
                **{f"image_{i}": None for i in range(2, 8)},
                "answer": row.answer,
                "question_type": "multiple-choice" if row.options else "open",
                "subfield": "toy",
            }
            for number, row in enumerate(mine, start=1)
        ]
        _parquet(folder / subject / "validation-00000-of-00001.parquet", table)


def write_mmmu_pro(folder: Path, rows: Sequence[Row]) -> None:
    """Both standard folders and vision, where the picture is the question."""
    table = [
        {
            "id": f"test_{row.category}_{number}",
            "question": f"{row.text} <image 1>",
            "options": str(list(row.options)),
            "image_1": _cell(row.picture),
            **{f"image_{i}": None for i in range(2, 8)},
            "answer": row.answer,
            "subject": row.category,
        }
        for number, row in enumerate(rows)
    ]
    for name in ("standard (10 options)", "standard (4 options)"):
        _parquet(folder / name / "test-00000-of-00001.parquet", table)
    seen = [
        {"id": row["id"], "options": row["options"], "answer": row["answer"]}
        | {"subject": row["subject"], "image": row["image_1"]}
        for row in table
    ]
    _parquet(folder / "vision" / "test-00000-of-00001.parquet", seen)


def sandbox_rows(world: SandboxWorld, name: str) -> list[Row]:
    """A suite of the sandbox as rows. MMMU(-Pro) has options, letters and pictures."""
    rows = []
    blank = Image.new("RGB", (SIDE, SIDE), (20, 20, 20))
    cases = world.suites()[name]
    for number, case in enumerate(cases):
        picture = world.images.open(case.image) if case.image else blank
        options = tuple(case.text.split()[1:]) if case.style == "multiple-choice" else ()
        rows.append(
            Row(
                text="which" if options else case.text,
                goal=f"make {case.goal}" if case.goal else "",
                picture=picture,
                category=f"part-{number % 2 + 1}",
                options=options,
                answer=chr(65 + options.index(case.answer or "")) if options else "",
            )
        )
    return rows


WRITERS = {
    "jailbreakv": (write_jailbreakv, "jailbreakv"),
    "figstep": (write_figstep, "figstep"),
    "safebench": (write_safebench, "safebench"),
    "mm-safetybench": (write_mm_safetybench, "mm-safetybench"),
    "mmmu": (write_mmmu, "mmmu"),
    "mmmu-pro": (write_mmmu_pro, "mmmu"),
}


def write_layouts(world: SandboxWorld, out: Path) -> dict[str, Path]:
    """All six, each in its own folder of `out`; and wording.toml."""
    import tomli_w

    folders = {}
    for name, (write, source) in WRITERS.items():
        folders[name] = out / name
        write(out / name, sandbox_rows(world, source))
    _text(out / "wording.toml", tomli_w.dumps(WORDING))
    return folders


def _by_category(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for name, mine in itertools.groupby(
        sorted(rows, key=lambda row: row.category), key=lambda row: row.category
    ):
        yield name, list(mine)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Lossless even as .jpg: the sandbox's drawings are small, and JPEG would smear them.
    picture.save(path, format="PNG")


def _cell(picture: Image.Image) -> dict[str, object]:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return {"bytes": data.getvalue(), "path": None}


def _csv(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _parquet(path: Path, rows: list[dict]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: writing parquet needs pyarrow, found none; pip install 'sectow-fast[suites]'"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m sectow_fast.data.sandbox.layouts", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=300, help="cases of a suite")
    options = parser.parse_args(arguments)
    try:
        if options.out.exists() and any(options.out.iterdir()):
            raise UserError(f"--out {options.out}: found files there, expected an empty folder")
        world = SandboxWorld(seed=options.seed, config=SandboxConfig(suite_size=options.cases))
        for name, folder in write_layouts(world, options.out).items():
            print(f"--suite {name}={folder}")
        print(f"--wording {options.out / 'wording.toml'}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
