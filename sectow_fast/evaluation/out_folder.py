"""The folder of an evaluation of models.

OUT/asked.json        what was asked: a later command on the same folder must ask the same
OUT/rows/ROW/         a model behind a defence: model.json, and the files of `row_files`
OUT/summary.json      every rate; OUT/report.html; OUT/export/
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.evaluation.records import JsonLines, is_useless, was_sent
from sectow_fast.judges.endpoint import NO_ANSWER
from sectow_fast.records import evaluation_rows
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
        """Write what is asked; UserError where the folder holds results of something else.

        A command that got no reply claimed nothing, nor did a judge that gave no verdict.
        """
        self._earlier_rows()
        path = self.path / "asked.json"
        asked = json.loads(json.dumps(asked))
        before = _object(path) if path.exists() else asked
        other = [key for key in {**before, **asked} if asked.get(key) != before.get(key)]
        for key in other:
            name, counts = ("records", _judged) if other == ["judge"] else ("responses", _replied)
            if any(_any_row(one, counts) for one in self.path.glob(f"rows/*/{name}.jsonl")):
                raise UserError(
                    f"--out {self.path}: found results of another {key}"
                    f" ({_short(before.get(key))}), expected {_short(asked.get(key))};"
                    " use another --out"
                )
        write_private(path, json.dumps(asked, indent=1) + "\n")

    def row(self, name: str, *, model: str, weights: Mapping[str, Any]) -> Path:
        """The folder of a row. UserError where it holds replies of another model.

        weights: what identifies the model, as JSON holds it.
        """
        path = self.path / "rows" / name
        path.mkdir(exist_ok=True, mode=0o700)
        kept = path / "model.json"
        before = _object(kept) if kept.exists() else weights
        changed = [one for one in {**before, **weights} if before.get(one) != weights.get(one)]
        if changed and _any_row(path / "responses.jsonl", _replied):
            raise UserError(
                f"{path}: found replies of another model than {model} is now"
                f" ({', '.join(changed[:5])} differs); give the model another name"
                " (--model NAME=FOLDER) or use another --out"
            )
        write_private(kept, json.dumps(weights) + "\n")
        return path

    def with_earlier_rows(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`rows`, after those that earlier commands left; a row of the same kind is replaced.

        Another second judge, or other refusals that count in ORR, make another kind. A command
        without a second judge leaves the kappa of an earlier one.
        """
        found = self._earlier_rows()
        for row in rows:
            mine = row["second_judge"]
            same = [at for at, one in enumerate(found) if _base(one) == _base(row)]
            same = [at for at in same if mine is None or found[at]["second_judge"] in (None, mine)]
            for at in same:
                kept = ("second_judge", "agreement") if mine is None else ()
                found[at] = row | {key: found[at][key] for key in kept}
            if not same:
                found.append(row)
        return _named(found)

    def _earlier_rows(self) -> list[dict[str, Any]]:
        path = self.path / "summary.json"
        return evaluation_rows(path, _object(path)) if path.exists() else []


@contextlib.contextmanager
def row_files(folder: Path) -> Iterator[tuple[JsonLines, JsonLines]]:
    """The files of a row: (replies, replies with verdicts). Where nothing but failures is in one,
    they are forgotten, so that they are asked again."""
    with (
        contextlib.closing(JsonLines(folder / "responses.jsonl")) as responses,
        contextlib.closing(JsonLines(folder / "records.jsonl")) as records,
    ):
        if not any(map(_replied, responses.rows.values())):
            records.drop(set(records.rows))
            responses.drop(set(responses.rows))
        if not any(map(_judged, records.rows.values())):
            records.drop({key for key, row in records.rows.items() if is_useless(row)})
        yield responses, records


@contextlib.contextmanager
def second_file(folder: Path, judge_id: str) -> Iterator[JsonLines]:
    """The verdicts of this second judge alone. Where none of them can be used, they are
    forgotten."""
    name = hashlib.sha256(judge_id.encode()).hexdigest()[:8]
    with contextlib.closing(JsonLines(folder / f"second-{name}.jsonl")) as second:
        if all(map(is_useless, second.rows.values())):
            second.drop(set(second.rows))
        yield second


def forget_failures(responses: JsonLines, records: JsonLines) -> None:
    """Drop rows without a reply or verdict, as an outage leaves them, so that they are asked
    again."""
    silent = {key for key, row in responses.rows.items() if row["model_response"] is None}
    unjudged = {
        key for key, row in records.rows.items() if row["judge_reason"].startswith(NO_ANSWER)
    }
    records.drop(silent | unjudged)
    responses.drop(silent)


def _replied(response: Mapping[str, Any]) -> bool:
    return response["model_response"] is not None


def _judged(record: Mapping[str, Any]) -> bool:
    return was_sent(record) and not is_useless(record)


def _any_row(path: Path, counts: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a row of the file counts. One that cannot be read does: its reader says so."""
    try:
        with open(path, "rb") as lines:
            return any(counts(json.loads(line)) for line in lines if line.endswith(b"\n"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True


def _object(path: Path) -> dict[str, Any]:
    """The object of a JSON file that an evaluation wrote. UserError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: found no readable JSON object ({reason}), expected what an evaluation wrote"
            " there; mend the file, or use another --out"
        ) from None
    return found


def _base(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["folder"], row["orr_counts"]


def _named(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with a name of its own."""
    out = []
    for row in rows:
        name = row["folder"] + (", partial refusals count" * (row["orr_counts"] == "partial"))
        if sum(_base(other) == _base(row) for other in rows) > 1:
            name += f", second judge {row['second_judge']}"
        out.append(row | {"name": name})
    return out


def write_private(path: Path, text: str) -> None:
    """Write the file whole or not at all; only its owner may read it."""
    write_whole(path, text)
    os.chmod(path, 0o600)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
