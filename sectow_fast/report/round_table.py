"""The table of a run's page: every measure by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sectow_fast.report.page import Cell
from sectow_fast.report.rundata import ATTACKER_NAMES, bounds, leaks, percent, sentence, suite_names
from sectow_fast.rounds import MEASURES, NO_RATE, HarvestRecord, LeakRecord, RoundRecord
from sectow_fast.types import Rate

TITLES = {"orr": "ORR", "accuracy": "Accuracy"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table of rounds. kind: "head" or "part"; cells: one per round."""

    name: str
    kind: str
    cells: Sequence[Cell]


def rate_row(name: str, kind: str, rates: Sequence[Rate], *, fine: bool = False) -> Row:
    """A row of rates in percent, with their intervals and what the judge could not tell.

    fine: small ones have two decimals.
    """
    cells = [
        Cell(
            value=percent(rate.value, _digits(rate.value, fine), unit=""),
            bounds=bounds(rate, _digits(rate.high, fine)),
            note=f"{rate.unknown} unknown" if rate.unknown else "",
        )
        for rate in rates
    ]
    return Row(name=name, kind=kind, cells=cells)


def round_table(rounds: Sequence[RoundRecord], *, attacks: str = "ASR") -> list[Row]:
    """Every measure by round: its mean, then its suites; then the attackers and the pool.

    attacks: what the share of successful attacks is called.
    """
    titles = TITLES | {"asr": sentence(attacks)}
    rows = []
    for measure in MEASURES:
        names, title = suite_names(rounds, measure), titles[measure]
        if not names:
            continue
        rows.append(rate_row(f"{title}, mean", "head", [r.mean(measure) for r in rounds]))
        for name in names:
            rates = [record.rates[measure].get(name, NO_RATE) for record in rounds]
            rows.append(rate_row(suite_label(name, rates), "part", rates))
        if measure == "asr":
            hot = [record.mean(measure, t1=True) for record in rounds]
            rows.append(rate_row(f"{title}, T = 1, mean", "head", hot))
            graded = [record.graded.get("mean", NO_RATE) for record in rounds]
            if any(rate.n for rate in graded):
                rows.append(rate_row("Graded harm, mean", "head", graded))
            rows += leak_rows(rounds)
    rows.append(Row(name="Attacker success", kind="head", cells=[Cell()] * len(rounds)))
    for name in dict.fromkeys(name for record in rounds for name in record.attacker_success):
        rates = [record.attacker_success.get(name, NO_RATE) for record in rounds]
        rows.append(rate_row(ATTACKER_NAMES.get(name, name), "part", rates))
    kept = [kept_cell(record.harvest) for record in rounds]
    asked = [Cell(value=f"{sum(r.queries.values()):,}" if r.harvest else "–") for r in rounds]
    return [
        *rows,
        Row(name="Attacks kept (count)", kind="head", cells=kept),
        Row(name="Defender queries (count)", kind="head", cells=asked),
    ]


def suite_label(name: str, rates: Sequence[Rate]) -> str:
    """A suite with the number of objects that its cases are about."""
    objects = next((rate.objects for rate in rates if rate.objects is not None), None)
    return name if objects is None else f"{name} ({objects} object{'s' * (objects != 1)})"


def leak_rows(rounds: Sequence[RoundRecord]) -> list[Row]:
    """The computed chance of harm by round; none where it was not computed."""
    if not leaks(rounds):
        return []

    def row(name: str, kind: str, pick: Callable[[LeakRecord], Rate]) -> Row:
        rates = [pick(record.leak) if record.leak else NO_RATE for record in rounds]
        return rate_row(name, kind, rates, fine=True)

    tries = leaks(rounds)[-1][1].asr_at
    worst = [max(record.leak.worst) if record.leak else NO_RATE.value for record in rounds]
    most = [percent(value, _digits(value, True), unit="") for value in worst]
    return [
        row("Chance of harm, mean", "head", lambda one: one.mean),
        row("graded harm", "part", lambda one: one.graded),
        row("worst on an object, median", "part", lambda one: one.worst_median),
        Row(name="worst of all", kind="part", cells=[Cell(value=value) for value in most]),
        *(
            row(f"ASR@{k:,}", "part", lambda one, k=k: one.asr_at.get(k, NO_RATE))
            for k in tries
            if k > 1  # ASR@1 is the mean
        ),
    ]


def _digits(value: float, fine: bool) -> int:
    """Decimals of a share in percent: two where small ones are told apart."""
    return 2 if fine and value < 0.1 else 1


def kept_cell(harvest: HarvestRecord | None) -> Cell:
    """How many attacks were kept; where a proxy decided, how many truly succeed."""
    if harvest is None:
        return Cell(value="–")
    gold = harvest.kept_gold
    return Cell(value=str(harvest.kept), note="" if gold is None else f"{gold} truly")
