"""CSV, JSON and parquet, read row by row; every mistake in them is one line with file and row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.types import UserError

csv.field_size_limit(2**24)  # one prompt of a template attack is longer than csv's default allows
BATCH = 64  # rows of a parquet file in memory at a time


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE row N", row) for each row below the header; N counts rows from 1.

    UserError: a column of `needed` is not there, a row is short or long, the file ends inside a
    quoted field, or it is not UTF-8.
    """
    number = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            check_columns(path, reader.fieldnames or [], needed)
            width = len(reader.fieldnames or [])
            for number, row in enumerate(reader, start=1):
                where = f"{path} row {number}"
                short = sum(value is None for value in row.values())
                if short or None in row:
                    found = width - short if short else width + len(row[None])  # type: ignore[index]
                    raise UserError(
                        f"{where}: found {found} fields, expected {width}; is the file whole?"
                        " download it again"
                    )
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(f"{path} row {number + 1}", error, "CSV in UTF-8") from None
    if not number:
        raise UserError(f"{path}: found no rows below the header; download it again")


def column_rows(path: Path) -> Iterator[tuple[str, str]]:
    """("FILE row N", text) of a CSV with one column and no header."""
    number = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file, strict=True), start=1):
                if len(row) != 1:
                    raise UserError(
                        f"{path} row {number}: found {len(row)} fields, expected 1 (no header)"
                    )
                yield f"{path} row {number}", row[0]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise damaged(f"{path} row {number + 1}", error, "CSV in UTF-8") from None


def json_file(path: Path, kind: type) -> Any:
    """The whole file, whose top must be `kind` (dict or list)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(str(path), error, "JSON") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: found a {type(value).__name__}, expected a {kind.__name__}")
    return value


def parquet_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """("FILE row N", N - 1, row) with the columns asked for, BATCH rows in memory at a time."""
    number = 0
    file = open_parquet(path)
    names = file.schema_arrow.names
    check_columns(path, names, needed)
    wanted = [*needed, *(name for name in optional if name in names)]
    try:
        for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", number - 1, row
    except (OSError, ValueError) as error:
        raise damaged(f"{path} row {number + 1}", error, "parquet") from None
    if not number:
        raise UserError(f"{path}: found no rows; download it again")


def open_parquet(path: Path) -> Any:
    """A pyarrow ParquetFile. UserError where pyarrow is missing or the file is damaged."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: reading parquet needs pyarrow, found none; pip install 'sectow-fast[suites]'"
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise damaged(str(path), error, "parquet") from None


def check_columns(path: Path, found: Sequence[str], needed: Sequence[str]) -> None:
    """UserError naming the columns of `needed` that are not among `found`."""
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"{path}: found no column {', '.join(map(repr, missing))}, expected"
            f" {', '.join(needed)}; it has {', '.join(map(str, found)) or 'none'}"
        )


def field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must hold words. UserError where it is absent, no text or blank."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value in (None, "") else repr(value)[:40]
        raise UserError(f"{where}: found {found} in {name!r}, expected text")
    return value


def one_of(value: str, known: Sequence[str], name: str, where: str) -> str:
    """`value` as `known` spells it, whatever its case."""
    for one in known:
        if value.strip().casefold() == one.casefold():
            return one
    raise UserError(f"{where}: found {name} {value!r}, expected one of {', '.join(known)}")


def damaged(where: str, error: Exception, kind: str) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{where}: found a damaged or unreadable file ({reason}), expected {kind};"
        " download it again"
    )
