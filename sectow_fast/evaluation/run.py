"""The evaluation itself: ask, judge, write, and go on where a killed one stopped.

OUT/asked.json        what was asked: a second run must ask the same
OUT/rows/ROW/         a model under a defence: responses.jsonl, records.jsonl, second.jsonl
OUT/summary.json      every rate; OUT/report.html; OUT/export/
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sectow_fast.data.suites import OpenSuite, SuiteCase, SuiteSpec, open_suite
from sectow_fast.data.suites.registry import sampled
from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.defences import defended
from sectow_fast.evaluation.records import JsonLines, digest, evaluation_row, response_row
from sectow_fast.evaluation.repliers import Ask, Replier, Reply
from sectow_fast.judges.base import Judge, Judgement, JudgeRequest
from sectow_fast.judges.endpoint import NO_ANSWER
from sectow_fast.judges.rule import RuleJudge, refusal_of
from sectow_fast.run_folder import write_whole
from sectow_fast.types import UserError

EVERY = 10.0  # seconds between two lines of progress


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The suites, opened and checked, with the cases that are asked of every model."""

    suites: Mapping[str, OpenSuite]
    cases: Mapping[str, Sequence[SuiteCase]]
    notes: Sequence[str]

    def all_cases(self) -> list[SuiteCase]:
        return [case for cases in self.cases.values() for case in cases]

    def identity(self) -> dict[str, Any]:
        """What tells these cases from others, suite by suite."""
        out = {}
        for name, cases in self.cases.items():
            text = "\n".join(f"{case.id} {digest(case)}" for case in cases)
            out[name] = {
                "split": self.suites[name].split,
                "cases": len(cases),
                "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
            }
        return out


def open_all(texts: Sequence[str], *, wording: Wording, limit: int, seed: int) -> Asked:
    """Every suite that was named, whole and checked. UserError for the first thing that is not."""
    suites: dict[str, OpenSuite] = {}
    cases: dict[str, list[SuiteCase]] = {}
    notes: list[str] = []
    for text in texts:
        suite = open_suite(SuiteSpec.parse(text), wording=wording)
        name = suite.name
        if name in suites:
            raise UserError(f"--suite {text}: found {name} again, expected each suite once")
        suites[name] = suite
        every = suite.checked()
        if note := suite.note(len(every)):
            notes.append(note)
        cases[name] = sampled(every, limit, f"{seed}/{name}") if limit else every
        if len(cases[name]) < len(every):
            notes.append(f"{name}: {len(cases[name])} of {len(every)} cases, one a prompt")
    return Asked(suites=suites, cases=cases, notes=notes)


class OutFolder:
    """OUT/, its owner's alone, locked while an evaluation writes to it."""

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
        """Write what is asked, or hold it against what was. UserError names what differs."""
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

    def row(self, name: str) -> Path:
        path = self.path / "rows" / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path


@contextlib.contextmanager
def row_files(folder: Path) -> Iterator[tuple[JsonLines, JsonLines, JsonLines]]:
    """(responses, records, second judge's) of a row."""
    files = [JsonLines(folder / f"{n}.jsonl") for n in ("responses", "records", "second")]
    try:
        yield files[0], files[1], files[2]
    finally:
        for file in files:
            file.close()


def forget_failures(responses: JsonLines, records: JsonLines) -> None:
    """Take back what an outage left: cases without a reply, and replies without a verdict."""
    silent = {key for key, row in responses.rows.items() if row["model_response"] is None}
    unjudged = {
        key for key, row in records.rows.items() if row["judge_reason"].startswith(NO_ANSWER)
    }
    records.drop(silent | unjudged)
    responses.drop(silent)


def ask_missing(
    row: str,
    asked: Asked,
    responses: JsonLines,
    *,
    replier: Replier,
    defence: str,
    wording: Wording,
    chunk: int,
) -> None:
    """Ask for every case without a response; `chunk` at a time, each on disk as it comes."""
    todo = [case for case in asked.all_cases() if case.id not in responses.rows]
    progress = Progress(f"{row}: replies", len(todo))
    for at in range(0, len(todo), chunk):
        part = todo[at : at + chunk]
        asks = [
            Ask(id=case.id, parts=case.parts, images=asked.suites[case.suite].images)
            for case in part
        ]
        for number, reply in defended(defence, replier, asks, wording):
            responses.append(response_row(part[number], reply, model=row))
            progress.step()
    progress.end()


def judge_missing(
    row: str, asked: Asked, responses: JsonLines, records: JsonLines, *, judge: Judge
) -> None:
    """Judge every response without a record.

    A case with an answer needs no guard: its refusal is by rule, so it costs nothing. No reply is
    `unknown`: nobody is asked.
    """
    open_: list[SuiteCase] = []
    for case in asked.all_cases():
        if case.id in records.rows:
            continue
        response = responses.rows[case.id]
        reply = response["model_response"]
        if reply is None:
            reason = f"no reply: {response['response_error']}"
            verdict = Judgement(label="unknown", refusal="none", reason=reason)
            records.append(evaluation_row(response, case, verdict, "none"))
        elif case.answer is not None:
            verdict = Judgement(label="safe", refusal=refusal_of(reply), reason="has an answer")
            records.append(evaluation_row(response, case, verdict, RuleJudge.id))
        else:
            open_.append(case)
    progress = Progress(f"{row}: verdicts", len(open_))
    requests = [request_of(case, responses.rows[case.id]) for case in open_]
    for number, verdict in judge.judge(requests):
        case = open_[number]
        records.append(evaluation_row(responses.rows[case.id], case, verdict, judge.id))
        progress.step()
    progress.end()


def second_opinion(
    asked: Asked, records: JsonLines, second: JsonLines, *, judge: Judge, count: int, seed: int
) -> tuple[list[str], list[str]]:
    """(first labels, second labels) of a drawn sample of the judged unsafe cases."""
    cases = [case for case in asked.all_cases() if case.label == "unsafe"]
    cases = [case for case in cases if records.rows[case.id]["model_response"] is not None]
    sample = random.Random(f"{seed}/agreement").sample(cases, min(count, len(cases)))
    todo = [case for case in sample if case.id not in second.rows]
    requests = [request_of(case, records.rows[case.id]) for case in todo]
    for number, verdict in judge.judge(requests):
        case = todo[number]
        second.append(
            {
                "test_case_id": case.id,
                "judge_id": judge.id,
                "label": verdict.label,
                "judge_raw": verdict.raw,
                "judge_reason": verdict.reason,
            }
        )
    return (
        [records.rows[case.id]["label"] for case in sample],
        [second.rows[case.id]["label"] for case in sample],
    )


def request_of(case: SuiteCase, response: Mapping[str, Any]) -> JudgeRequest:
    """What the case is after, in plain words where the suite has them, and the reply."""
    return JudgeRequest(request=case.goal or case.text, reply=response["model_response"])


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and its owner's alone."""
    write_whole(path, text)
    os.chmod(path, 0o600)


class Progress:
    """A line on standard error now and then, never a request or a reply."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._next = time.monotonic() + EVERY

    def step(self) -> None:
        self.done += 1
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            print(f"{self.what} {self.done} of {self.total}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.total:
            print(f"{self.what} {self.done} of {self.total}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."


__all__ = ["Asked", "OutFolder", "Reply", "ask_missing", "judge_missing", "open_all", "row_files"]
