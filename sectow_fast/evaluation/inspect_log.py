"""An evaluation as a log of Inspect (UK AISI), for `inspect view` and its data frames."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.evaluation.tables import MEASURES, outcome, rate_of
from sectow_fast.judges.people import by_rule
from sectow_fast.texts import json_text

Rows = Sequence[tuple[SuiteCase, Mapping[str, Any]]]


def inspect_log(
    row: str, rows: Rows, *, partial: bool = False, people: str = ""
) -> tuple[str, str]:
    """Version 2 of the log's JSON form; a task is a suite, a sample a case. No picture is in it.

    A sample has the scores that it counts in (`asr` or `not_refused`, `orr`, `accuracy`), with 0 or
    1 as their value; what could not be told has no score. The results hold our rates, each with its
    judge and, in its metadata, how far that one agrees with people. partial: see `tables.rate_of`.
    people: those words.
    """
    records = [record for _, record in rows]
    suite = rows[0][0].suite
    judge = records[0]["judge_id"]
    rule = by_rule(judge)
    measures = [m for m in MEASURES if m != ("asr" if rule else "not_refused")]
    rates = {measure: rate_of(records, measure, partial=partial) for measure in measures}
    told = {measure: rate for measure, rate in rates.items() if rate is not None and rate.n}
    log = {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": hashlib.sha256(f"{row}\n{suite}\n{judge}".encode()).hexdigest()[:22],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": suite,
            "dataset": {"name": suite, "samples": len(rows)},
            "model": row,
            "config": {},
        },
        "results": {
            "total_samples": len(rows),
            "completed_samples": sum(r["model_response"] is not None for r in records),
            "scores": [
                {
                    "name": measure,
                    "scorer": judge,
                    "metadata": {"people": people},
                    "metrics": {
                        name: {"name": name, "value": getattr(rate, name)}
                        for name in ("value", "low", "high", "n", "unknown")
                    },
                }
                for measure, rate in told.items()
            ],
        },
        "samples": [
            _sample(row, case, record, list(told), partial=partial) for case, record in rows
        ],
    }
    return "json", json_text(log, indent=1)


def _sample(
    row: str,
    case: SuiteCase,
    record: Mapping[str, Any],
    measures: Sequence[str],
    *,
    partial: bool,
) -> dict[str, Any]:
    scores = {}
    for measure in measures:
        counts, value = outcome(record, measure, partial=partial)
        if counts and value is not None:
            scores[measure] = {"value": value, "explanation": record["judge_reason"] or None}
    reply = record["model_response"]
    choice = {
        "message": {"role": "assistant", "content": reply or "", "model": row},
        "stop_reason": "max_tokens" if record["cut"] else "stop",
    }
    return {
        "id": case.id,
        "epoch": 1,
        "input": case.text,
        "target": (case.answer or "").split("\n"),
        "choices": list(case.options) or None,
        "output": {"model": row, "choices": [] if reply is None else [choice]},
        "scores": scores,
        "metadata": {
            "goal": case.goal,
            "category": case.category,
            "format": case.format,
            "label": case.label,
            "refusal": record["refusal"],
            "pictures": list(case.images),
        },
    }
