"""CSV, TSV, JSON and parquet, read row by row; every mistake is one line with file and row.

Text is UTF-8, or what its byte order mark says it is.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sectow_fast.data.links import LFS, refuse_pointer
from sectow_fast.data.suites import layout
from sectow_fast.types import UserError

csv.field_size_limit(2**24)  # one prompt of a template attack is longer than csv's default allows
BATCH = 64  # rows of a parquet file in memory at a time
# UTF-32's mark begins with UTF-16's, so it comes first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a split. where: "FILE row N"; at: N - 1; number: from 1, over all its files."""

    where: str
    path: Path
    at: int
    number: int
    values: Mapping[str, Any]


def split_rows(
    root: Path, patterns: Sequence[str], needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of the files that `layout.files` finds, whatever their format.

    optional: columns that a parquet file is asked for too; other formats give all they have.
    """
    number = 0
    for path in layout.files(root, patterns):
        ending = path.suffix.lower()
        if ending == ".parquet":
            rows = ((where, row) for where, _, row in parquet_rows(path, needed, optional))
        elif ending in (".json", ".jsonl"):
            rows = json_rows(path, needed)
        else:
            rows = csv_rows(path, needed, delimiter="\t" if ending == ".tsv" else ",")
        for at, (where, values) in enumerate(rows):
            number += 1
            yield Row(where=where, path=path, at=at, number=number, values=values)


def encoding_of(path: Path) -> str:
    """The encoding that a file's first bytes name. UserError for a pointer of Git LFS."""
    with open(path, "rb") as file:
        head = file.read(len(LFS))
    refuse_pointer(head, str(path))
    return next((name for mark, name in MARKS if head.startswith(mark)), "utf-8-sig")


def csv_rows(
    path: Path, needed: Sequence[str], *, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE row N", row) for each row below the header; N counts rows from 1.

    UserError: a column of `needed` is not there, a row is short or long, the file ends inside a
    quoted field, or it is not in its encoding.
    """
    number = 0
    try:
        with open(path, newline="", encoding=encoding_of(path)) as file:
            reader = csv.DictReader(file, strict=True, delimiter=delimiter)
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
    except (OSError, UnicodeError, csv.Error) as error:
        raise damaged(f"{path} row {number + 1}", error, "CSV in UTF-8") from None
    if not number:
        raise UserError(f"{path}: found no rows below the header; download it again")


def column_rows(path: Path) -> Iterator[tuple[str, str]]:
    """("FILE row N", text) of a CSV with one column and no header."""
    number = 0
    try:
        with open(path, newline="", encoding=encoding_of(path)) as file:
            for number, row in enumerate(csv.reader(file, strict=True), start=1):
                if len(row) != 1:
                    raise UserError(
                        f"{path} row {number}: found {len(row)} fields, expected 1 (no header)"
                    )
                yield f"{path} row {number}", row[0]
    except (OSError, UnicodeError, csv.Error) as error:
        raise damaged(f"{path} row {number + 1}", error, "CSV in UTF-8") from None


def json_file(path: Path, kind: type | tuple[type, ...]) -> Any:
    """The whole file, whose top must be `kind` (dict or list, or either)."""
    try:
        value = json.loads(path.read_text(encoding=encoding_of(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(str(path), error, "JSON") from None
    if not isinstance(value, kind):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{path}: found a {type(value).__name__}, expected a {kinds}")
    return value


def json_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE row N", row) of a list of objects, or of a file with an object per line."""
    number = 0
    if path.suffix.lower() == ".json":
        found: Any = json_file(path, list)
    else:
        found = _json_lines(path)
    for number, row in enumerate(found, start=1):
        where = f"{path} row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: found {row!r:.40}, expected an object")
        if number == 1:
            check_columns(path, list(row), needed)
        yield where, row
    if not number:
        raise UserError(f"{path}: found no rows; download it again")


def _json_lines(path: Path) -> Iterator[Any]:
    number = 0
    try:
        with open(path, newline="\n", encoding=encoding_of(path)) as file:
            for line in file:
                if line.strip():
                    number += 1
                    yield json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(f"{path} row {max(number, 1)}", error, "JSON lines") from None


def parquet_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """("FILE row N", N - 1, row) with the columns asked for, BATCH rows in memory at a time."""
    number = 0
    file = open_parquet(path)
    # A table that was read without heed of a mark keeps it in its first column's name.
    names = {name.removeprefix("\ufeff"): name for name in file.schema_arrow.names}
    check_columns(path, list(names), needed)
    wanted = {names[one]: one for one in (*needed, *optional) if one in names}
    try:
        for batch in file.iter_batches(batch_size=BATCH, columns=list(wanted)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", number - 1, {wanted[n]: v for n, v in row.items()}
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
        encoding_of(path)
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise damaged(str(path), error, "parquet") from None


def check_columns(path: Path, found: Sequence[str], needed: Sequence[str]) -> None:
    """UserError naming the columns of `needed` that are not among `found`, or there twice."""
    twice = [name for name in needed if list(found).count(name) > 1]
    if twice:
        raise UserError(f"{path}: found column {twice[0]!r} twice, expected it once; take one out")
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"{path}: found no column {', '.join(map(repr, missing))}, expected"
            f" {', '.join(needed)}; it has {', '.join(map(str, found)) or 'none'}"
        )


def field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must hold words, or a whole number. UserError where it is absent or blank."""
    value = row.get(name)
    value = value if isinstance(value, str) else _plain(value)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value in (None, "") else repr(value)[:40]
        raise UserError(f"{where}: found {found} in {name!r}, expected text")
    return value


def optional(row: Mapping[str, Any], name: str) -> str:
    """A field as text; "" where it is absent or null (NaN is how pandas writes null)."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    value = _plain(value)
    return "" if value is None or value != value else str(value)


def _plain(value: Any) -> Any:
    """A whole number as its digits: a table that went through pandas has numbers for ids."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(int(value)) if number and value == value // 1 else value


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
