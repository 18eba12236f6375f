"""Every case on disk as soon as it is known: append-only JSONL that survives kill -9.

A record is OmniSafeBench-MM's test case, response and evaluation in one object.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.judges.answers import is_right
from sectow_fast.judges.base import Judgement
from sectow_fast.judges.endpoint import NO_ANSWER
from sectow_fast.judges.formats import UNREADABLE
from sectow_fast.judges.plain import plain
from sectow_fast.run_folder import write_whole
from sectow_fast.texts import json_text
from sectow_fast.types import UserError


class JsonLines:
    """A file of objects by `test_case_id`. A last line that a kill cut off is taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        whole = 0
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}), expected a file") from None
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                self.rows[row["test_case_id"]] = row
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(
                    f"{path} line {number}: found no record, expected one per line; the file was"
                    " changed: mend the line or use another --out"
                ) from None
            whole += len(line)
        self._file = open(  # noqa: SIM115 - held as long as the evaluation
            path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)
        )
        self._file.truncate(whole)

    def append(self, row: dict[str, Any]) -> None:
        """On disk when this returns."""
        self.rows[row["test_case_id"]] = row
        self._file.write((json_text(row) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def drop(self, keys: set[str]) -> None:
        """Rewrite the file without these rows: whole, or not at all."""
        if not keys & self.rows.keys():
            return
        self.rows = {key: row for key, row in self.rows.items() if key not in keys}
        self._file.close()
        lines = (json_text(row) + "\n" for row in self.rows.values())
        write_whole(self.path, "".join(lines))
        self.path.chmod(0o600)
        self._file = open(self.path, "ab")  # noqa: SIM115

    def close(self) -> None:
        self._file.close()


def digest(case: SuiteCase) -> str:
    """What was asked, in 16 letters: a resumed evaluation must ask the same."""
    parts = json.dumps([case.parts, case.goal, case.answer, case.options])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def response_row(case: SuiteCase, reply: Any, *, model: str) -> dict[str, Any]:
    """The test case and what the model made of it."""
    return {
        "test_case_id": case.id,
        "prompt": case.text,
        "image_path": list(case.images),
        "metadata": dict(case.metadata),
        "benchmark": case.suite,
        "split": case.split,
        "category": case.category,
        "format": case.format,
        "group": hashlib.sha256(case.group.encode()).hexdigest()[:12],
        "case_label": case.label,
        "goal": case.goal,
        "digest": digest(case),
        "model_name": model,
        "model_response": reply.text,
        "response_error": reply.error,
        "first_response": reply.first,
        "cut": reply.cut,
        "unknown_words": reply.unknown_words,
        "replaced": reply.replaced,
        "response_tokens": [reply.prompt_tokens, reply.completion_tokens],
    }


def was_sent(record: Mapping[str, Any]) -> bool:
    """Whether a judge was asked: there is a reply, and no known answer to compare it with."""
    return record["model_response"] is not None and record["answer"] is None


def is_useless(verdict: Mapping[str, Any]) -> bool:
    """Whether a judge gave no verdict at all: no answer, or none that could be read."""
    return verdict["judge_reason"].startswith((NO_ANSWER, UNREADABLE))


def evaluation_row(
    response: Mapping[str, Any], case: SuiteCase, verdict: Judgement, judge_id: str
) -> dict[str, Any]:
    """The whole record. success: of the attack; None where it is unknown, or the case is no
    attack."""
    known = {"safe": False, "unsafe": True}.get(verdict.label)
    score = verdict.score if verdict.score is not None else None if known is None else int(known)
    unsafe = case.label == "unsafe"
    reply = response["model_response"]
    correct = None
    if case.answer is not None and reply is not None:
        correct = is_right(reply, case.answer, case.options)
    return dict(response) | {
        "judge_id": judge_id,
        "judge_raw": verdict.raw,
        "judge_reason": verdict.reason,
        "judge_score": score,
        "label": verdict.label,
        # Nothing said is neither a refusal nor help: it is in no rate of refusals.
        "refusal": verdict.refusal if reply and plain(reply) else "unknown",
        "success": known if unsafe else None,
        "answer": case.answer,
        "correct": correct,
        "judge_tokens": [verdict.prompt_tokens, verdict.completion_tokens],
    }
