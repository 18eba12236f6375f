"""The file of a `DuplicateIndex`: the kept documents, each part with a checksum.

A header, then three arrays: numbers int64 [kept], offsets int64 [kept + 1], tokens int32 [T], each
part followed by its CRC-32. All is little-endian. Signatures are made again on loading, so a file
cannot contradict itself.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = b"SECTOWDX"
VERSION = 1
_HEADER = struct.Struct("<8sIqdqqq")  # magic, version, ngram, threshold, seen, kept, tokens
_CRC = struct.Struct("<I")


def write(
    path: Path,
    ngram: int,
    threshold: float,
    seen: int,
    numbers: np.ndarray,
    tokens: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Write `path.part`, then rename it: a reader never sees half a file."""
    header = _HEADER.pack(MAGIC, VERSION, ngram, threshold, seen, len(numbers), len(tokens))
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        for data in (
            header,
            numbers.astype("<i8", copy=False).data,
            offsets.astype("<i8", copy=False).data,
            tokens.astype("<i4", copy=False).data,
        ):
            out.write(data)
            out.write(_CRC.pack(zlib.crc32(data)))
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)


def read(path: Path) -> tuple[int, float, int, np.ndarray, np.ndarray, np.ndarray]:
    """(ngram, threshold, seen, numbers, tokens, offsets) of a file that `write` wrote.

    Raises ValueError with the path and the byte where it is foreign, truncated or corrupted.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size + _CRC.size)
        if not head.startswith(MAGIC):
            what = "a truncated file" if MAGIC.startswith(head) else "another kind of file"
            raise ValueError(f"{path}, byte 0: found {what}, expected a duplicate index")
        if len(head) < _HEADER.size + _CRC.size:
            raise ValueError(f"{path}, byte {len(head)}: found the end, the header is truncated")
        if zlib.crc32(head[: _HEADER.size]) != _CRC.unpack_from(head, _HEADER.size)[0]:
            raise ValueError(f"{path}, byte 0: the header's checksum differs, it is corrupted")
        _, version, ngram, threshold, seen, kept, count = _HEADER.unpack_from(head)
        if version != VERSION:
            raise ValueError(
                f"{path}, byte {len(MAGIC)}: found version {version}, expected {VERSION}"
            )
        expected = len(head) + 8 * kept + 8 * (kept + 1) + 4 * count + 3 * _CRC.size
        if kept < 0 or count < 0 or size != expected:
            what = "it is truncated" if size < expected else "something was appended"
            raise ValueError(
                f"{path}, byte {min(size, expected)}: found {size} bytes,"
                f" expected {expected}: {what}"
            )
        numbers = _section(file, path, "numbers", "<i8", kept).astype(np.int64, copy=False)
        offsets = _section(file, path, "offsets", "<i8", kept + 1).astype(np.int64, copy=False)
        tokens = _section(file, path, "tokens", "<i4", count).astype(np.int32, copy=False)
    if kept and (numbers[0] < 0 or numbers[-1] >= seen or (np.diff(numbers) <= 0).any()):
        raise ValueError(
            f"{path}, byte {len(head)}: the numbers do not rise from 0 to below {seen}"
        )
    return ngram, threshold, seen, numbers, tokens, offsets


def _section(file: BinaryIO, path: Path, name: str, dtype: str, count: int) -> np.ndarray:
    start = file.tell()
    values = np.fromfile(file, dtype, count)
    crc = file.read(_CRC.size)
    if len(values) < count or zlib.crc32(values.data) != _CRC.unpack(crc)[0]:
        raise ValueError(
            f"{path}, bytes {start} to {file.tell()} ({name}): the checksum differs,"
            " the file is corrupted"
        )
    return values
