"""The JSON of a stage: written after every row, read to see what is done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

from bench.gpu_check import ROOT
from bench.gpu_check.check import Row
from bench.gpu_check.machine import Card

# What decides the figures. The commit is recorded too, but changes with every word of the docs, and
# is not known in a copy without its history.
CODE = ("sectow_fast", "kernels", "csrc", "bench", "tests/kernels")
KINDS = (".py", ".cpp", ".hpp", ".h", ".toml")
FINISHED = "finished"
KEPT = ROOT / "bench" / "results" / "gpu"


def code_digest() -> str:
    """Of all sources that a stage runs."""
    found = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in KINDS and path.is_file():
                found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def is_kept(folder: Path) -> bool:
    """Whether it lies in bench/results, where figures of cards and benchmarks are committed."""
    kept = (ROOT / "bench" / "results").resolve()
    return kept in (folder.resolve(), *folder.resolve().parents)


def write(
    folder: Path, stage: str, rows: Sequence[Row], *, card: Card, state: str, **about: Any
) -> None:
    """STAGE.json: rows, state, card, driver, versions, commit, code, date and what `about` has."""
    record.write(
        folder,
        stage,
        rows,
        stage=stage,
        state=state,
        card=card.name,
        driver=card.driver,
        **about,
    )


def read(folder: Path, stage: str) -> dict[str, Any]:
    """What was written of a stage; empty where nothing was."""
    path = folder / f"{stage}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def rows_of(folder: Path, stage: str) -> list[Row]:
    return read(folder, stage).get("rows", [])


def is_done(folder: Path, stage: str, *, card: Card, code: str) -> bool:
    """Whether a finished file of this code and card is there."""
    found = read(folder, stage)
    return (found.get("state"), found.get("card"), found.get("code")) == (
        FINISHED,
        card.name,
        code,
    )
