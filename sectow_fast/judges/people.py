"""How far a judge agrees with people, for reports: as `judges.bench` measured it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from sectow_fast.judges.formats import GUARD_FORMATS
from sectow_fast.types import AGREEMENT_UNKNOWN, UserError

# What the rule is made of: the bench keeps their digest, so that its figures are today's.
RULE_FILES = ("rule.py", "refusal_words.py", "languages.py", "plain.py")
RULE = ("rule", "rule-knowingly")  # names of the judge that knows of refusals alone


@dataclass(frozen=True, kw_only=True)
class WithPeople:
    """kappa with its 95 % interval, on n replies that people labelled; measure: refusal or harm.

    rule: it is the rule's, which says what a guard of another name leaves out: whether it refuses.
    """

    measure: str
    kappa: float
    low: float
    high: float
    n: int
    labels: str
    rule: bool = False

    def words(self) -> str:
        whose = "refusals are by the rule, which " if self.rule else ""
        return (
            f"{whose}agrees with people on {self.measure}: kappa {self.kappa:.2f}"
            f" [{self.low:.2f}, {self.high:.2f}], {self.n} replies of {self.labels}"
        )


# bench/results/judge-xstest.json, the row of all models.
OF_THE_RULE = WithPeople(
    measure="refusal", kappa=0.830, low=0.805, high=0.859, n=2249, labels="XSTest"
)


def rule_digest() -> str:
    """16 hex digits that stand for the code of the rule."""
    folder = Path(__file__).parent
    text = b"".join((folder / name).read_bytes() for name in RULE_FILES)
    return hashlib.sha256(text).hexdigest()[:16]


def by_rule(judge_id: str) -> bool:
    """Whether only the rule judged: then a rate of "unsafe" is one of "not refused"."""
    return judge_id == RULE[0]


def with_people(judge_id: str, bench: str) -> list[WithPeople]:
    """What is known of a judge: the scores of all models in the JSON of a bench, if one is named.

    UserError where the file is none, or is about another judge.
    """
    if by_rule(judge_id) and not bench:
        return [OF_THE_RULE]
    return [*(_of_bench(judge_id, bench) if bench else ()), *_of_refusals(judge_id)]


def _of_refusals(judge_id: str) -> list[WithPeople]:
    """The rule's own figure, where a guard's format says nothing of refusals."""
    parts = judge_id.rsplit(":", 2)  # endpoint:MODEL:FORMAT:controversial=..., of either kind
    if len(parts) < 3 or parts[1] not in GUARD_FORMATS.names():
        return []
    own = GUARD_FORMATS.get(parts[1]).refuses
    return [] if own else [dataclasses.replace(OF_THE_RULE, rule=True)]


def _of_bench(judge_id: str, bench: str) -> list[WithPeople]:
    try:
        found = json.loads(Path(bench).read_text(encoding="utf-8"))
        rows = [row for row in found["rows"] if row["model"] == "all"]
        scores = [
            WithPeople(labels=Path(bench).stem, **{k: row[k] for k in _FIELDS}) for row in rows
        ]
        judge = found["judge"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        words = " ".join(str(error).split())[:120]
        raise UserError(
            f"--judge-bench {bench}: cannot be read ({words}), expected what"
            " python -m sectow_fast.judges.bench --json wrote"
        ) from None
    if judge != judge_id:
        raise UserError(
            f"--judge-bench {bench}: found scores of judge {judge}, expected {judge_id}"
        )
    return scores


def people_words(judge_id: str, bench: str) -> str:
    """`with_people` in one line, or that nothing is known."""
    known = with_people(judge_id, bench)
    unknown = [] if any(not one.rule for one in known) else [AGREEMENT_UNKNOWN]
    return "; ".join((*unknown, *(one.words() for one in known)))


_FIELDS = ("measure", "kappa", "low", "high", "n")
