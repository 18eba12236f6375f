"""The folder of an evaluation of models.

OUT/asked.json        what was asked: a later command on the same folder must ask the same
OUT/rows/ROW/         a model behind a defence: model.json, and the files of `row_files`
OUT/summary.json      every rate; OUT/report.html; OUT/export/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.evaluation.records import JsonLines
from sectow_fast.judges.endpoint import NO_ANSWER
from sectow_fast.run_folder import write_whole
from sectow_fast.types import UserError


class OutFolder:
    """OUT/, which only its owner may read, locked while an evaluation writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            (path / "rows").mkdir(exist_ok=True, mode=0o700)
            self._lock = open(path / ".lock", "a")  # noqa: SIM115 - held as long as we run
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out {path}: another evaluation is writing here") from None
        except OSError as error:
            raise UserError(f"--out {path}: cannot write there ({error.strerror})") from None

    def claim(self, asked: Mapping[str, Any]) -> None:
        """Write what is asked; where it was written before, UserError names what differs."""
        path = self.path / "asked.json"
        asked = json.loads(json.dumps(asked))
        if path.exists():
            before = json.loads(path.read_text())
            for key in asked.keys() | before.keys():
                if asked.get(key) != before.get(key):
                    raise UserError(
                        f"--out {self.path}: found results of another {key}"
                        f" ({_short(before.get(key))}), expected {_short(asked.get(key))};"
                        " use another --out"
                    )
        write_private(path, json.dumps(asked, indent=1) + "\n")

    def row(self, name: str, *, model: str, weights: Mapping[str, Any]) -> Path:
        """The folder of a row. UserError where it holds replies of other weights.

        weights: what identifies the model's weights, as JSON holds it.
        """
        path = self.path / "rows" / name
        path.mkdir(exist_ok=True, mode=0o700)
        kept = path / "model.json"
        if kept.exists() and json.loads(kept.read_text()) != weights:
            raise UserError(
                f"{path}: found replies of other weights than those in {model} now; give the model"
                " another name (--model NAME=FOLDER) or use another --out"
            )
        write_private(kept, json.dumps(weights) + "\n")
        return path

    def with_earlier_rows(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`rows`, after those that earlier commands left; a row of the same name is replaced."""
        path = self.path / "summary.json"
        if not path.exists():
            return list(rows)
        new = {row["name"]: row for row in rows}
        earlier = json.loads(path.read_text())["rows"]
        kept = [new.pop(row["name"], row) for row in earlier]
        return kept + list(new.values())


@contextlib.contextmanager
def row_files(folder: Path) -> Iterator[tuple[JsonLines, JsonLines, JsonLines]]:
    """The files of a row: (replies, replies with verdicts, verdicts of the second judge)."""
    files = [JsonLines(folder / f"{n}.jsonl") for n in ("responses", "records", "second")]
    try:
        yield files[0], files[1], files[2]
    finally:
        for file in files:
            file.close()


def forget_failures(responses: JsonLines, records: JsonLines) -> None:
    """Drop rows without a reply or verdict, as an outage leaves them, so that they are asked
    again."""
    silent = {key for key, row in responses.rows.items() if row["model_response"] is None}
    unjudged = {
        key for key, row in records.rows.items() if row["judge_reason"].startswith(NO_ANSWER)
    }
    records.drop(silent | unjudged)
    responses.drop(silent)


def write_private(path: Path, text: str) -> None:
    """Write the file whole or not at all; only its owner may read it."""
    write_whole(path, text)
    os.chmod(path, 0o600)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
