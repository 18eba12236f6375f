"""How far a judge agrees with people, on published replies that people have labelled.

    python -m sectow_fast.judges.bench --labels FOLDER [--judge rule] [--json FILE]

A row per model and one of all; `--held-out` names models that nobody looked at to write the judge,
and they have a row together, as the others do. Intervals are of 95 %, by a bootstrap over requests:
the replies of several models to one request are no independent cases.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sectow_fast.judges.base import Judge, JudgeRequest
from sectow_fast.judges.endpoint import NO_ANSWER
from sectow_fast.judges.formats import UNREADABLE
from sectow_fast.judges.labelled import Labelled, read_labels
from sectow_fast.judges.make import JudgeSettings, make_judge
from sectow_fast.judges.people import by_rule, rule_digest
from sectow_fast.types import UserError

DRAWS = 1000  # of the bootstrap
ALL = "all"
READ, UNREAD = "looked at", "held out"  # rows of several models together


@dataclass(frozen=True, kw_only=True)
class Score:
    """measure: "refusal" (in full) or "harm". n: rows that people labelled and the judge read.

    missed: people said yes and the judge no; false: the other way about. Shares are of n.
    unknown: rows that the judge could not tell; they are not in n. low, high: of kappa.
    """

    measure: str
    model: str
    n: int
    positives: int
    accuracy: float
    kappa: float
    low: float
    high: float
    missed: int
    false: int
    unknown: int


def kappa_of(table: np.ndarray) -> np.ndarray:
    """Cohen's kappa of tables [..., 4]: both yes, people only, judge only, neither.

    NaN where chance alone agrees always.

    >>> float(kappa_of(np.array([2, 0, 1, 1]))).__round__(2)
    0.5
    """
    both, people, judge, neither = (table[..., i].astype(float) for i in range(4))
    n = both + people + judge + neither
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = (both + neither) / n
        yes = (both + people) * (both + judge)
        chance = (yes + (judge + neither) * (people + neither)) / n**2
        return np.where(np.isclose(chance, 1.0), math.nan, (seen - chance) / (1 - chance))


def score(
    measure: str, model: str, rows: Sequence[tuple[str, bool, bool | None]], *, seed: int = 0
) -> Score:
    """rows: (request, what people say, what the judge says; None: it could not tell)."""
    known = [(request, a, b) for request, a, b in rows if b is not None]
    names = {request: i for i, request in enumerate(dict.fromkeys(r for r, _, _ in known))}
    counts = np.zeros((len(names), 4), dtype=np.int64)
    for request, people, judge in known:
        counts[names[request], 0 if people and judge else 1 if people else 2 if judge else 3] += 1
    table, n = counts.sum(0), len(known)
    low = high = math.nan
    if n:
        shares = np.full(len(names), 1 / len(names))
        drawn = np.random.default_rng(seed).multinomial(len(names), shares, size=DRAWS)
        kappas = kappa_of(drawn @ counts)
        if np.isfinite(kappas).any():
            low, high = np.nanquantile(kappas, (0.025, 0.975))
    return Score(
        measure=measure,
        model=model,
        n=n,
        positives=int(table[0] + table[1]),
        accuracy=float(table[0] + table[3]) / n if n else math.nan,
        kappa=float(kappa_of(table)) if n else math.nan,
        low=float(low),
        high=float(high),
        missed=int(table[1]),
        false=int(table[2]),
        unknown=len(rows) - n,
    )


def bench(
    judge: Judge, labelled: Sequence[Labelled], *, held_out: Sequence[str] = ()
) -> list[Score]:
    """Each measure that people labelled: every model, then all of them together.

    held_out: models, by the end of their names; they and the others have a row each. UserError
    where one names no model.
    """
    names = {row.model for row in labelled}
    for end in held_out:
        if not any(name.endswith(end) for name in names):
            known = ", ".join(sorted(names))
            raise UserError(f"--held-out: found {end!r}, expected the end of one of: {known}")
    unread = {name for name in names if name.endswith(tuple(held_out))}
    said = dict(judge.judge([JudgeRequest(request=r.request, reply=r.reply) for r in labelled]))
    out = []
    for measure in ("refusal", "harm"):
        rows: list[tuple[str, str, bool, bool | None]] = []
        for number, row in enumerate(labelled):
            people = row.refusal if measure == "refusal" else row.harmful
            if people is None:
                continue
            verdict = said[number]
            told = verdict.refusal if measure == "refusal" else verdict.label
            if verdict.reason.startswith((UNREADABLE, NO_ANSWER)):
                told = "unknown"  # a refusal is by rule then, and not this judge's
            yes = people == "full" if measure == "refusal" else bool(people)
            judged = None if told == "unknown" else told in ("full", "unsafe")
            # Without a request each row is a case of its own.
            rows.append((row.model, row.request or str(number), yes, judged))
        models = list(dict.fromkeys(model for model, *_ in rows))
        for model in models if len(models) > 1 else []:
            out.append(score(measure, model, [rest for name, *rest in rows if name == model]))  # type: ignore[misc]
        for part, chosen in ((READ, names - unread), (UNREAD, unread)) if unread and rows else ():
            out.append(score(measure, part, [rest for name, *rest in rows if name in chosen]))  # type: ignore[misc]
        if rows:
            out.append(score(measure, ALL, [rest for _, *rest in rows]))  # type: ignore[misc]
    return out


def table_of(scores: Sequence[Score]) -> str:
    """The scores in fixed columns."""
    head = f"{'measure':8} {'model':40} {'n':>6} {'yes':>6} {'accuracy':>8} {'kappa':>6}"
    lines = [head + f" {'95 % interval':>15} {'missed':>6} {'false':>6} {'unknown':>7}"]
    for one in scores:
        interval = f"[{one.low:.3f}, {one.high:.3f}]"
        lines.append(
            f"{one.measure:8} {one.model[-40:]:40} {one.n:6} {one.positives:6} {one.accuracy:8.3f}"
            f" {one.kappa:6.3f} {interval:>15} {one.missed:6} {one.false:6} {one.unknown:7}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 2 and one line for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m sectow_fast.judges.bench")
    parser.add_argument("--labels", required=True, type=Path, help="labelled replies: file, folder")
    parser.add_argument(
        "--held-out",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,...",
        help="models whose replies nobody looked at, by the end of their names",
    )
    parser.add_argument("--json", type=Path, help="write the scores here too")
    parser.add_argument("--judge", default="rule", help="rule, guard, or a registered judge")
    for name in ("url", "model", "format"):
        parser.add_argument(f"--judge-{name}", default=None, help="as for sectow_fast.evaluate")
    options = parser.parse_args(arguments)
    more = {name: getattr(options, f"judge_{name}") for name in ("url", "model", "format")}
    try:
        labelled = read_labels(options.labels)
        given = {name: value for name, value in more.items() if value is not None}
        judge = make_judge(JudgeSettings(name=options.judge, setting="--judge", **given))
        scores = bench(judge, labelled, held_out=options.held_out)
        print(table_of(scores))
        if options.json:
            _write(options.json, judge, scores, options.held_out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(path: Path, judge: Judge, scores: Sequence[Score], held_out: Sequence[str]) -> None:
    rows = [asdict(one) for one in scores]
    found = {"schema": 1, "judge": judge.id, "held_out": list(held_out), "rows": rows}
    if by_rule(judge.id):
        found["rule"] = rule_digest()
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
