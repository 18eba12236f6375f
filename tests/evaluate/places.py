"""Suites put where users have them, and opened there."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from sectow_fast.data.suites import OpenSuite, SuiteCase, SuiteSpec, open_suite


def opened(name: str, folder: Path, split: str = "") -> OpenSuite:
    return open_suite(SuiteSpec(name=name, split=split, folder=folder))


def loaded(name: str, folder: Path, split: str = "") -> list[SuiteCase]:
    """Every case, its pictures opened; without `where`, since files and rows differ."""
    suite = opened(name, folder, split)
    cases = suite.checked([])
    for case in cases:
        for key in case.images:
            assert suite.images.open(key).mode == "RGB"
    return [replace(case, where="") for case in cases]


def hub_cache(source: Path, repository: Path, revision: str = "4f2a") -> Path:
    """A folder as huggingface_hub keeps it: blobs, and a snapshot of relative links to them."""
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    for number, path in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copyfile(path, blob)
        link = repository / "snapshots" / revision / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repository


def table_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
