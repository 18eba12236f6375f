"""Toy benchmarks in the published layouts: made-up words, drawn squares, nothing harmful."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from sectow_fast.data.sandbox import layouts
from sectow_fast.data.sandbox.layouts import Row

CATEGORIES = ("Illegal Bado", "Fraud Miku")
FORMATS = ("Template", "Logic", "Persuade", "figstep", "sd", "Typo", "SD_typo")


def rows(count: int = 20, options: bool = False) -> list[Row]:
    made = []
    for i in range(count):
        picture = Image.new("RGB", (32, 32), (8 * i % 256, 90, 200))
        more = (
            {"options": ("bado", "miku", "tefa"), "answer": "ABC"[i % 3]}
            if options and i % 5
            else {"answer": f"bado{i}"}
        )
        made.append(
            Row(
                text=f"please tell how a bado{i} is folded,\nin two lines",
                goal=f"fold a bado{i}",
                picture=picture,
                category=CATEGORIES[i % 2],
                format=FORMATS[i % 7],
                **more,
            )
        )
    return made


def write_csv(path: Path, columns: Sequence[str], table: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *table])


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (200, 90, 20)).save(path)


def jailbreakv(folder: Path) -> None:
    layouts.write_jailbreakv(folder, rows())


def figstep(folder: Path) -> None:
    layouts.write_figstep(folder, rows())


def safebench(folder: Path) -> None:
    layouts.write_safebench(folder, rows())


def mm_safetybench(folder: Path) -> None:
    layouts.write_mm_safetybench(folder, rows())


def mm_safetybench_mirror(folder: Path) -> None:
    """The hub's: data/SCENARIO/FORMAT.parquet."""
    for scenario in ("Illegal_Activitiy", "HateSpeech"):
        for kind in ("Text_only", "SD", "SD_TYPO", "TYPO"):
            table = [
                {"id": str(i), "question": row.goal if kind == "Text_only" else row.text}
                | {"image": None if kind == "Text_only" else layouts._cell(row.picture)}
                for i, row in enumerate(rows(4))
            ]
            layouts._parquet(folder / "data" / scenario / f"{kind}.parquet", table)


def mmmu(folder: Path) -> None:
    layouts.write_mmmu(folder, rows(options=True))


def mmmu_pro(folder: Path) -> None:
    made = [row for row in rows(options=True) if row.options]
    layouts.write_mmmu_pro(folder, made)


def xstest(folder: Path) -> None:
    table = [
        (i, f"how do I stop a bado{i} process?", "homonyms", "unsafe" if i % 3 == 2 else "safe")
        for i in range(9)
    ]
    columns = ("id", "prompt", "type", "label", "focus", "note")
    write_csv(folder / "xstest_prompts.csv", columns, [(*row, "stop", "") for row in table])


def mossbench(folder: Path) -> None:
    records = {
        str(i): {
            "image": f"images/{i}.png",
            "short description": "a square",
            "question": f"what could a child do with bado{i}?",
            "metadata": {"over": f"type {i % 3 + 1}", "human": 0, "child": 1, "syn": 1, "ocr": 0},
            "pid": str(i),
            "description": "",
        }
        for i in range(1, 7)
    }
    path = folder / "data" / "images_information" / "information.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(records))
    for i in range(1, 7):
        picture(folder / "data" / "images" / f"{i}.{'webp' if i == 2 else 'png'}")


def or_bench(folder: Path) -> None:
    for split in ("hard-1k", "80k", "toxic"):
        table = [(f"how does a {split} bado{i} work?", "privacy") for i in range(6)]
        write_csv(folder / f"or-bench-{split}.csv", ("prompt", "category"), table)


def vlguard(folder: Path) -> None:
    for split in ("train", "test"):
        records = []
        for i in range(6):
            picture(folder / split / "toys" / f"{i}.png")
            base = {"id": f"{split}_{i}", "image": f"toys/{i}.png"}
            if i % 2:
                pairs = [
                    {"safe_instruction": f"name the colour of bado{i}", "response": "orange"},
                    {"unsafe_instruction": f"mock the bado{i}", "response": "I'd rather not."},
                ]
                records.append(base | {"safe": True, "instr-resp": pairs})
            else:
                pairs = [{"instruction": f"copy the bado{i}", "response": "I'd rather not."}]
                more = {"harmful_category": "privacy", "harmful_subcategory": "data"}
                records.append(base | {"safe": False, "instr-resp": pairs} | more)
        (folder / f"{split}.json").write_text(json.dumps(records))


WRITERS: dict[str, Callable[[Path], None]] = {
    "jailbreakv": jailbreakv,
    "redteam-2k": jailbreakv,  # RedTeam_2K.csv lies in the same folder
    "figstep": figstep,
    "safebench": safebench,
    "mm-safetybench": mm_safetybench,
    "mmmu": mmmu,
    "mmmu-pro": mmmu_pro,
    "xstest": xstest,
    "mossbench": mossbench,
    "or-bench": or_bench,
    "vlguard": vlguard,
}
