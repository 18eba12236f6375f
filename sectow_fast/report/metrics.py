"""The log of a run: one JSON object per line, written so that a killed run can be continued.

Every row is one `write` of a whole line followed by a flush, so at worst the last line is torn.
`MetricsLog.bytes` goes into a checkpoint and `MetricsLog.truncate` winds the log back to it; a
resumed run then writes the same bytes again.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sectow_fast.texts import json_text
from sectow_fast.types import UserError


def finite(value: Any) -> Any:
    """`value` ready for strict JSON: NaN and infinities become None, NumPy's numbers plain ones."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return value


def scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row with nested keys joined by "/", for TensorBoard."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, float(value)


class MetricsLog:
    """Appends rows to `path` (JSON lines), and to TensorBoard where that package is installed.

    The event files go to `tensorboard/` beside the log; `tensorboard=False` writes none.
    A torn last line left by a killed run is cut off on opening.
    """

    def __init__(self, path: str | Path, *, tensorboard: bool = True) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115 - held for the length of the run
        self._mend()
        self._board = _writer(self.path.parent / "tensorboard") if tensorboard else None

    def _mend(self) -> None:
        """Cut a torn tail, or end a whole last line that only lacks its newline."""
        data = self.path.read_bytes()
        tail = data[data.rfind(b"\n") + 1 :]
        if not tail:
            return
        if _parse(tail) is None:
            self.truncate(len(data) - len(tail))
        else:
            self._file.write(b"\n")
            self._file.flush()

    @property
    def bytes(self) -> int:
        """Length of the log so far in bytes: what `truncate` takes to come back to here."""
        return self._file.tell()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and flush it. Numbers that are not finite are written as null."""
        clean = finite(row)
        line = json_text(clean, allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if self._board is not None and "phase" in clean:
            self._mirror(clean)

    def _mirror(self, row: Mapping[str, Any]) -> None:
        # A step counted over all rounds, from the row alone: a resumed run repeats it exactly.
        rounds_before = max(row["round"] - 1, 0)
        step = rounds_before * row["steps"] + row["step"] if "step" in row else rounds_before
        for name, value in scalars(row):
            if name not in ("round", "step", "steps"):
                self._board.add_scalar(f"{row['phase']}/{name}", value, step)

    def truncate(self, offset: int) -> None:
        """Wind back to `offset` bytes, as `bytes` gave them. Refuses an offset past the end."""
        size = self.path.stat().st_size
        if not 0 <= offset <= size:
            raise UserError(
                f"{self.path}: the checkpoint asks for the first {offset} bytes, found {size}; "
                "the log was changed after the checkpoint: resume from another run folder"
            )
        self._file.flush()
        self._file.truncate(offset)
        self._file.seek(offset)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _writer(folder: Path) -> Any:
    """A TensorBoard SummaryWriter; None where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder), flush_secs=30)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object on a line, or None where the line is not one JSON object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # of JSON or of UTF-8; lists in lists without end
        return None
    return row if isinstance(row, dict) else None


class MetricsReader(Iterator[dict[str, Any]]):
    """Iterates over the rows of a JSON-lines file.

    where: the file and the number of the line that was read last, for messages.
    torn: 1 after the end if a torn last line was dropped. Only an unfinished last line (no newline)
    can be the mark of a killed run; any other line that does not parse raises UserError by number.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.torn, self._number = Path(path), 0, 0
        try:
            self._lines = iter(self.path.read_bytes().splitlines(keepends=True))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None

    @property
    def where(self) -> str:
        return f"{self.path}, line {self._number}"

    def __next__(self) -> dict[str, Any]:
        for line in self._lines:
            self._number += 1
            if not line.strip():
                continue
            row = _parse(line)
            if row is not None:
                return row
            if not line.endswith(b"\n"):
                self.torn += 1
                continue
            raise UserError(
                f"{self.where}: expected one JSON object, found "
                f"{line[:40].decode(errors='replace').strip()!r}; mend or remove that line"
            )
        raise StopIteration


def read(path: str | Path) -> MetricsReader:
    """The rows of a JSON-lines file, in order (see MetricsReader for torn and broken lines)."""
    return MetricsReader(path)
