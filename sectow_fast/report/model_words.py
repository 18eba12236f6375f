"""What the report and the console say of an evaluation in words: names of measures, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sectow_fast.report.rundata import percent
from sectow_fast.types import AGREEMENT_UNKNOWN

TITLES = {
    "asr": "Attack success",
    "not_refused": "Unsafe requests not refused",
    "orr": "Over-refusal",
    "accuracy": "Accuracy",
}
SHORT = {"asr": "ASR", "not_refused": "not refused", "orr": "ORR", "accuracy": "accuracy"}
MEANS = {
    "asr": "ASR",
    "asr of plain requests": "ASR, plain requests",
    "not_refused": "not refused",
    "not_refused of plain requests": "not refused, plain requests",
    "orr": "ORR",
    "accuracy": "accuracy",
}


def tries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """ASR@k by model and suite, where a goal has several attacks."""
    return [
        {"row": row["name"], "suite": name, "short": SHORT[measure], "at": table[measure]["at"]}
        for row in rows
        for name, table in row["suites"].items()
        for measure in ("asr", "not_refused")
        if "at" in table.get(measure, {})
    ]


def matched_words(summary: Mapping[str, Any]) -> str:
    """Over-refusal at one rate of attack success, in words; "" where nothing can be compared."""
    found = summary.get("matched")
    if not found:
        return ""
    rates = ", ".join(f"“{name}” {percent(orr)}" for name, orr in found["orr"].items())
    return (
        f"Over-refusal where all let through as much ({MEANS[found['measure']]}"
        f" {percent(found['at'])}, each mixed at random with “{found['from']}”): {rates}"
    )


def seen_words(rows: Sequence[Mapping[str, Any]], suites: Mapping[str, Any]) -> list[str]:
    """Which requests a model was trained on, one line per model and suite."""
    return [
        f"“{row['name']}” was trained on {count} of the {suites[name]['cases']} requests of {name}"
        " (or on the same words elsewhere): its rates there say little about new requests"
        for row in rows
        for name, count in ((row.get("trained_on") or {}).get("seen", {})).items()
        if name in suites
    ]


def people_words(summary: Mapping[str, Any]) -> str:
    """How far the judge agrees with people, or that nobody has said so."""
    found = summary.get("with_people", ())
    own = [] if any(not one.get("rule") for one in found) else [AGREEMENT_UNKNOWN]
    return "; ".join((*own, *(one["words"] for one in found)))
