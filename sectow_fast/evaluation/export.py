"""Files that other tools read: VLMEvalKit, lmms-eval, MM-SafetyBench, JailBreakV, MMMU, Inspect.

A suite whose licence forbids passing it on is exported for private use only, and says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.evaluation.asking import Asked
from sectow_fast.evaluation.inspect_log import inspect_log
from sectow_fast.evaluation.out_folder import write_private
from sectow_fast.judges.answers import choice_of
from sectow_fast.texts import json_text, mended
from sectow_fast.types import UserError

Rows = Sequence[tuple[SuiteCase, Mapping[str, Any]]]
# Which suites an export is for; none: any.
SUITES: dict[str, tuple[str, ...]] = {
    "vlmevalkit": (),
    "lmms-eval": (),
    "mm-safetybench": ("mm-safetybench",),
    "jailbreakv": ("jailbreakv",),
    "mmmu": ("mmmu", "mmmu-pro"),
    "inspect": (),
}
WITHOUT_TEXT = ("mmmu",)  # holds ids and letters alone


def check_exports(names: Sequence[str], infos: Sequence[SuiteInfo], *, private: bool) -> None:
    """UserError where an export has no suite, or one that may not be passed on."""
    for name in names:
        wanted = SUITES[name]
        mine = [info for info in infos if not wanted or info.name in wanted]
        if not mine:
            raise UserError(
                f"--export {name}: found no suite for it, expected {' or '.join(wanted)}"
            )
        bound = [info for info in mine if not info.redistributes]
        if bound and not private and name not in WITHOUT_TEXT:
            raise UserError(
                f"--export {name}: it would hold the text of {bound[0].name}, whose licence"
                f" ({bound[0].licence}) does not allow passing it on; give --private to write it"
                " for your own use"
            )


def write_exports(
    folder: Path,
    names: Sequence[str],
    row: str,
    asked: Asked,
    records: Sequence[Mapping[str, Any]],
    *,
    partial: bool = False,
    people: str = "",
) -> list[str]:
    """OUT/export/NAME/ROW-SUITE.ext for each export and suite; owner-only, whole or not at all.

    partial: whether partly refused counts as refused, in the one that has rates (Inspect's).
    people: how far the judge agrees with people, for the same one.
    Returns a line per file in which characters were replaced.
    """
    notes = []
    by_id = {record["test_case_id"]: record for record in records}
    for name in names:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        for suite, cases in asked.cases.items():
            if SUITES[name] and suite not in SUITES[name]:
                continue
            rows = [(case, by_id[case.id]) for case in cases]
            if name == "inspect":
                ending, text = inspect_log(row, rows, partial=partial, people=people)
            else:
                ending, text = WRITERS[name](row, rows)
            text, halves = mended(text)
            write_private(target / f"{row}-{suite}.{ending}", text)
            if halves:
                notes.append(
                    f"{target / f'{row}-{suite}.{ending}'}: {halves} halves of surrogate pairs,"
                    " which no encoder writes, gave way to U+FFFD"
                )
            info = asked.suites[suite].suite.info
            if not info.redistributes and name not in WITHOUT_TEXT:
                words = f"{row}-{suite}: {info.title}, {info.licence}. Not to be passed on.\n"
                write_private(target / f"{row}-{suite}.NOTICE", words)
    return notes


def vlmevalkit(row: str, rows: Rows) -> tuple[str, str]:
    """A prediction table: index, question, A.., answer, category, id, prediction (tab-separated).

    The index is a number, as that tool's own tables have it.
    """
    most = max((len(case.options) for case, _ in rows), default=0)
    letters = [chr(65 + i) for i in range(most)]
    columns = ["index", "question", *letters, "answer", "category", "id", "prediction"]
    table = []
    for number, (case, record) in enumerate(rows):
        options = dict(zip(letters, case.options, strict=False))
        table.append(
            {"index": number, "question": case.text, "answer": case.answer or "", "id": case.id}
            | {letter: options.get(letter, "") for letter in letters}
            | {"category": case.category, "prediction": record["model_response"] or ""}
        )
    return "tsv", _table(columns, table, "\t")


def lmms_eval(row: str, rows: Rows) -> tuple[str, str]:
    """Samples as lmms-eval logs them: one object per line."""
    lines = []
    for number, (case, record) in enumerate(rows):
        reply = record["model_response"] or ""
        lines.append(
            json_text(
                {
                    "doc_id": number,
                    "doc": {"id": case.id, "question": case.text, "category": case.category},
                    "target": case.answer or "",
                    "input": case.text,
                    "resps": [[reply]],
                    "filtered_resps": [reply],
                    "label": record["label"],
                    "refusal": record["refusal"],
                }
            )
        )
    return "jsonl", "".join(line + "\n" for line in lines)


def mm_safetybench(row: str, rows: Rows) -> tuple[str, str]:
    """{scenario: {format: {id: {"Question", "ans": {MODEL: {"text"}}}}}}."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for case, record in rows:
        answer = {"text": record["model_response"] or ""}
        out.setdefault(case.category, {}).setdefault(case.format, {})[case.metadata["id"]] = {
            "Question": case.goal,
            "ans": {row: answer},
        }
    return "json", json_text(out, indent=1)


def jailbreakv(row: str, rows: Rows) -> tuple[str, str]:
    """The published columns and `response`."""
    columns = ["id", "jailbreak_query", "redteam_query", "format", "policy", "image_path", "from"]
    columns += ["selected_mini", "transfer_from_llm", "response"]
    table = []
    for case, record in rows:
        table.append(
            {
                "jailbreak_query": case.text,
                "redteam_query": case.goal,
                "policy": case.category,
                "image_path": case.images[0],
                **case.metadata,
                "response": record["model_response"] or "",
            }
        )
    return "csv", _table(columns, table, ",")


def mmmu(row: str, rows: Rows) -> tuple[str, str]:
    """{id: letter}; the words themselves for an open question, "" where no option was chosen."""
    out = {}
    for case, record in rows:
        reply = record["model_response"] or ""
        letter = choice_of(reply, case.options) if case.options else reply
        out[case.metadata["id"]] = letter or ""
    return "json", json_text(out, indent=1)


WRITERS: dict[str, Callable[[str, Rows], tuple[str, str]]] = {
    "vlmevalkit": vlmevalkit,
    "lmms-eval": lmms_eval,
    "mm-safetybench": mm_safetybench,
    "jailbreakv": jailbreakv,
    "mmmu": mmmu,
    "inspect": inspect_log,
}


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], delimiter: str) -> str:
    """Every field is quoted: csv quotes no bare carriage return, and others end a row at one."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
