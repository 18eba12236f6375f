"""What a second judge said is kept for that judge alone, and only where it can be used."""

from __future__ import annotations

import pytest

from sectow_fast.evaluation.out_folder import second_file
from sectow_fast.judges.endpoint import NO_ANSWER
from sectow_fast.judges.formats import UNREADABLE


def verdict(case: str, reason: str = "", label: str = "unsafe") -> dict[str, str]:
    return {"test_case_id": case, "label": label, "judge_raw": "", "judge_reason": reason}


def test_each_second_judge_has_verdicts_of_its_own(tmp_path):
    with second_file(tmp_path, "rule") as first:
        first.append(verdict("a"))
        first.append(verdict("b", f"{NO_ANSWER}: HTTP 500", "unknown"))
    with second_file(tmp_path, "endpoint:other") as other:
        assert not other.rows
        other.append(verdict("a", label="safe"))
    for judge, labels in (("rule", ["unsafe", "unknown"]), ("endpoint:other", ["safe"])):
        with second_file(tmp_path, judge) as again:
            assert [one["label"] for one in again.rows.values()] == labels


@pytest.mark.parametrize("reason", [f"{NO_ANSWER}: HTTP 500", f"{UNREADABLE}, expected yes or no"])
def test_a_second_judge_that_only_failed_has_claimed_nothing(tmp_path, reason):
    with second_file(tmp_path, "rule") as first:
        first.append(verdict("a", reason, "unknown"))
    with second_file(tmp_path, "rule") as again:
        assert not again.rows
    with second_file(tmp_path, "rule") as later:
        assert not later.rows
