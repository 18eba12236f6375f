"""How far a judge agrees with people, as a report is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sectow_fast.judges.people import (
    OF_THE_RULE,
    WithPeople,
    by_rule,
    people_words,
    rule_digest,
    with_people,
)
from sectow_fast.types import AGREEMENT_UNKNOWN, UserError

RESULTS = Path(__file__).parents[2] / "bench/results/judge-xstest.json"


def test_the_rules_own_figures_are_those_of_its_bench():
    found = json.loads(RESULTS.read_text())
    row = found["rows"][-1]
    assert found["rule"] == rule_digest(), "the rule has changed: run its bench again"
    assert (found["judge"], row["model"], row["n"]) == ("rule", "all", OF_THE_RULE.n)
    for name in ("kappa", "low", "high"):
        assert getattr(OF_THE_RULE, name) == round(row[name], 3)
    assert (OF_THE_RULE.measure, OF_THE_RULE.labels) == ("refusal", "XSTest")
    # What docs/EVALUATE.md promises of it.
    assert row["kappa"] >= 0.8
    assert all(one["kappa"] >= 0.6 for one in found["rows"] if one["positives"] > 30)


def test_only_the_rule_is_the_rule():
    assert by_rule("rule") and not by_rule("endpoint:x:qwen3guard:controversial=unsafe")
    assert with_people("rule", "") == [OF_THE_RULE] and with_people("model:x", "") == []
    assert people_words("rule", "") == OF_THE_RULE.words()
    assert people_words("model:x", "").startswith("how far it agrees with people is not known (")


@pytest.mark.parametrize(
    ("format", "own"),
    [
        *((name, True) for name in ("qwen3guard", "wildguard", "mine")),
        *((name, False) for name in ("llama-guard", "shieldgemma", "harmbench", "strongreject")),
    ],
)
def test_a_guard_that_says_nothing_of_refusals_has_them_by_the_rule(tmp_path, format, own):
    judge = f"endpoint:a:b:{format}:controversial=unsafe"
    ours = "refusals are by the rule, which " + OF_THE_RULE.words()
    assert people_words(judge, "") == (AGREEMENT_UNKNOWN if own else f"{AGREEMENT_UNKNOWN}; {ours}")
    path = bench_file(tmp_path, judge=judge)
    told = people_words(judge, path)
    assert told.startswith("agrees with people on harm: kappa 0.76") and told.endswith(ours) != own


def bench_file(tmp_path, **more):
    row = {"measure": "harm", "model": "all", "kappa": 0.756, "low": 0.7, "high": 0.8, "n": 9}
    path = tmp_path / "wildguardtest.json"
    given = {"schema": 1, "judge": "model:x", "rows": [{**row, "model": "a"}, row]} | more
    path.write_text(json.dumps(given))
    return str(path)


def test_another_judges_figures_come_from_its_bench(tmp_path):
    (found,) = with_people("model:x", bench_file(tmp_path))
    assert found == WithPeople(
        measure="harm", kappa=0.756, low=0.7, high=0.8, n=9, labels="wildguardtest"
    )
    words = "agrees with people on harm: kappa 0.76 [0.70, 0.80], 9 replies of wildguardtest"
    assert found.words() == words


def test_a_bench_of_another_judge_or_no_bench_is_refused(tmp_path):
    with pytest.raises(UserError, match="found scores of judge model:x, expected rule"):
        with_people("rule", bench_file(tmp_path))
    for bad in ({"rows": [{"model": "all"}]}, {"rows": 1}):
        with pytest.raises(UserError, match=r"cannot be read .*judges.bench --json wrote"):
            with_people("model:x", bench_file(tmp_path, **bad))
    with pytest.raises(UserError, match="cannot be read"):
        with_people("model:x", str(tmp_path / "none.json"))
