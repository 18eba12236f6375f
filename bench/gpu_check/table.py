"""The table at the end: every stage with its rows, from the files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.gpu_check import results
from bench.gpu_check.check import Row, Stage


def show(folder: Path, stages: Iterable[Stage], console: Console) -> None:
    """Stages without a file are left out."""
    for stage in stages:
        found = results.read(folder, stage.name)
        if not found:
            continue
        title = f"{stage.name}: {stage.what} ({found['state']}, {found['seconds']} s)"
        if found["rehearsal"]:
            title = f"REHEARSAL, no figures: {title}"
        columns = [name for name in stage.columns if any(name in row for row in found["rows"])]
        table = Table("", *columns, title=title, title_justify="left")
        for row in found["rows"]:
            table.add_row(*cells(row, columns))
        console.print(table)
        if found["why"]:
            console.print(found["why"])
    console.print(f"{folder}: JSON and log of every stage")


def cells(row: Row, columns: Iterable[str]) -> list[str]:
    """Name and values; why a row has none stands beside its name."""
    why = f" (absent: {row['absent']})" if "absent" in row else ""
    failed = row.get("failed")
    if isinstance(failed, str):
        why = f" (failed: {failed})"
    return [f"{row['name']}{why}", *(_cell(row.get(name)) for name in columns)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
