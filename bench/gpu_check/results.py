"""The JSON of a stage: written after every row, read to see what is done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.gpu_check import ROOT
from bench.gpu_check.check import Row

# What decides the figures. The commit is recorded too, but changes with every word of the docs, and
# is not known in a copy without its history.
CODE = (
    *("sectow_fast", "kernels", "csrc", "bench", "tests/kernels", "tests/conftest.py"),
    *(
        "tests/evaluate/tiny_models.py",
        "tests/evaluate/layouts.py",
        "tests/learn/test_placement.py",
    ),
)
KINDS = (".py", ".cpp", ".hpp", ".h", ".toml")
FINISHED = "finished"
KEPT = ROOT / "bench" / "results" / "gpu"


def sources() -> Iterator[Path]:
    """All files of code that a stage runs."""
    for one in (ROOT / name for name in CODE):
        found = [one] if one.is_file() else sorted(one.rglob("*"))
        yield from (path for path in found if path.suffix in KINDS and path.is_file())


def code_digest() -> str:
    """Of `sources`, with their names."""
    found = hashlib.sha256()
    for path in sources():
        found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def is_kept(folder: Path) -> bool:
    """Whether it lies in bench/results, where figures of cards and benchmarks are committed."""
    kept = (ROOT / "bench" / "results").resolve()
    return kept in (folder.resolve(), *folder.resolve().parents)


def read(folder: Path, stage: str) -> dict[str, Any]:
    """What was written of a stage; empty where nothing was."""
    path = folder / f"{stage}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def rows_of(folder: Path, stage: str) -> list[Row]:
    return read(folder, stage).get("rows", [])


def is_done(folder: Path, stage: str, decided: Mapping[str, Any]) -> bool:
    """Whether a finished file is there whose figures depended on the same; see `Run.decides`."""
    found = read(folder, stage)
    return found.get("state") == FINISHED and all(
        name in found and found[name] == value for name, value in decided.items()
    )
