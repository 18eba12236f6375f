"""The log of a run: one JSON object a line, written so that a killed run can be continued.

Every row is one `write` of a whole line followed by a flush, so at worst the last line is torn.
`MetricsLog.bytes` goes into a checkpoint and `MetricsLog.truncate` winds the log back to it; a
resumed run then writes the same bytes again.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sectow_fast.types import UserError


def finite(value: Any) -> Any:
    """`value` ready for strict JSON: NaN and infinities become None, arrays' scalars numbers."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(item) for item in value]
    if hasattr(value, "item"):  # a zero-dimensional tensor or a NumPy scalar
        return finite(value.item())
    return str(value)


def scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a row with nested keys joined by "/", for TensorBoard."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif type(value) in (int, float) and math.isfinite(value):
            yield prefix + key, float(value)


class MetricsLog:
    """Appends rows to `path` (JSON lines), and to TensorBoard where that package is installed.

    `tensorboard=None` means "if it is installed"; the event files go to `tensorboard/` beside the
    log. A torn last line left by a killed run is cut off on opening.
    """

    def __init__(self, path: str | Path, *, tensorboard: bool | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115 - held for the length of the run
        self._mend()
        self._board = _writer(self.path.parent / "tensorboard", tensorboard)

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
        """Write one row and flush it. Non-finite numbers are written as null."""
        clean = finite(row)
        line = json.dumps(clean, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if self._board is not None:
            self._mirror(clean)

    def _mirror(self, row: Mapping[str, Any]) -> None:
        if "event" in row or "phase" not in row:
            return
        # A step counted over all rounds, from the row alone: a resumed run repeats it exactly.
        rounds_before = max(int(row.get("round") or 0) - 1, 0)
        step = rounds_before * int(row.get("steps") or 0) + int(row.get("step") or rounds_before)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _writer(folder: Path, wanted: bool | None) -> Any:
    """A TensorBoard SummaryWriter, or None. Asked for and not installed is the user's error."""
    installed = importlib.util.find_spec("tensorboard") is not None
    if wanted and not installed:
        raise UserError(
            "tensorboard: asked for, but the package is not installed; pip install tensorboard"
        )
    if wanted is False or not installed:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder), flush_secs=30)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object on a line, or None where the line is not one JSON object."""
    try:
        row = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError both are
        return None
    return row if isinstance(row, dict) else None


class MetricsReader(Iterator[dict[str, Any]]):
    """Iterates over the rows of a log; `torn` is 1 after the end if a torn last line was dropped.

    Only an unfinished last line (no newline) can be the mark of a killed run; anything else that
    does not parse raises UserError with its line number.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.torn, self._number = Path(path), 0, 0
        try:
            self._lines = iter(self.path.read_bytes().splitlines(keepends=True))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None

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
                f"{self.path}, line {self._number}: expected one JSON object, found "
                f"{line[:40].decode(errors='replace').strip()!r}; mend or remove that line"
            )
        raise StopIteration


def read(path: str | Path) -> MetricsReader:
    """The rows of a JSON-lines file, in order (see MetricsReader for torn and broken lines)."""
    return MetricsReader(path)
