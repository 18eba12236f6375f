"""The page of `make smol`: what was measured, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WORDS = """# SmolLM2-135M-Instruct, hardened on a CPU

This is an integration test on real weights (135 M parameters, from 4 bits). It is no evidence of
safety: the goals are mild, and the rule judges, which sees who refuses and not what is harmful.
Over-refusal (ORR, on harmless twins in the same form) is the figure to watch. All goals and forms
of the test were held out of the training. Shares are in percent, with 95 % intervals.

| model | suite | not refused, unsafe | ORR, harmless |
|---|---|---|---|
"""
MODELS = {"before": "as it comes", "cold": "after the cold start", "after": "after the rounds"}


def page(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], *, cores: int) -> str:
    """rows: of the evaluation's summary; summary: the run's."""
    lines = [
        f"| {MODELS.get(row['model'], row['model'])} | {suite}"
        f" | {share(found.get('not_refused', {}).get('all'))}"
        f" | {share(found.get('orr', {}).get('all'))} |"
        for row in rows
        for suite, found in row["suites"].items()
    ]
    text = (
        WORDS
        + "\n".join(lines)
        + "\n\n| round | attacker | requests that got through |\n|---|---|---|\n"
    )
    for one in summary["rounds"]:
        for name, rate in one["attacker_success"].items():
            text += f"| {one['round']} | {name} | {share(rate)} |\n"
    events = [event for one in summary["rounds"] for event in one["events"]]
    text += "\nWhat the monitors did: "
    text += "; ".join(f"{e['kind']} in round {e['round']}" for e in events) or "nothing"
    return text + f".\nTraining took {summary['wall_seconds'] / 60:.0f} minutes on {cores} cores.\n"


def share(rate: Mapping[str, Any] | None) -> str:
    """
    >>> share({"value": 0.5, "low": 0.25, "high": 0.75, "n": 12, "unknown": 1})
    '50.0 [25.0, 75.0], n 12, 1 unknown'
    """
    if rate is None:
        return "-"
    words = f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    unknown = f", {rate['unknown']} unknown" if rate.get("unknown") else ""
    return f"{words}, n {rate['n']}{unknown}"
