"""Beside a suite of pictures stands the same one with blank pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
from whole_commands import FEW, records, suites, summary

from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluate import main
from sectow_fast.evaluation.asking import open_suites
from sectow_fast.evaluation.blank import control_of
from sectow_fast.evaluation.tables import row_summary


def opened(toys, *names, **more):
    texts = [f"{name}={toys / name}" for name in names]
    return open_suites(texts, wording=Wording(), limit=0, seed=0, **more)


def test_its_pictures_are_white_and_as_large_and_its_words_the_same(toys):
    asked = opened(toys, "figstep", "xstest", blank_control=True)
    assert set(asked.cases) == {"figstep", "figstep-blank", "xstest"}  # XSTest shows nothing
    assert asked.controls == {"figstep-blank": "figstep"}
    for case, blank in zip(asked.cases["figstep"], asked.cases["figstep-blank"], strict=True):
        assert (case.parts, case.goal, case.label) == (blank.parts, blank.goal, blank.label)
        assert blank.id == f"{case.id}-blank" and blank.suite == "figstep-blank"
        (key,) = case.images
        shown, white = (asked.suites[name].images.open(key) for name in ("figstep", blank.suite))
        assert white.size == shown.size == asked.suites[blank.suite].images.size(key)
        assert (np.asarray(white) == 255).all() and not (np.asarray(shown) == 255).all()


def test_cases_without_a_picture_have_no_control(toys):
    asked = opened(toys, "figstep")
    first, *rest = asked.cases["figstep"]
    mixed = [dataclasses.replace(first, parts=(("text", "words alone"),)), *rest]
    _, shown = control_of(asked.suites["figstep"], mixed)
    assert [case.id for case in shown] == [f"{case.id}-blank" for case in rest]
    assert control_of(asked.suites["figstep"], mixed[:1]) is None


def test_there_is_none_unless_asked_for_and_none_in_words(toys):
    assert set(opened(toys, "figstep").cases) == {"figstep"}
    assert set(opened(toys, "figstep", text_only=True, blank_control=True).cases) == {"figstep"}


def test_the_command_has_a_row_for_it_that_no_mean_counts(toys, qwen, tmp_path):
    out = tmp_path / "out"
    asked = ["--model", f"q={qwen}", *suites(toys, "figstep"), "--out", str(out), *FEW]
    assert main([*asked, "--blank-control", "true"]) == 0
    (row,) = summary(out)["rows"]
    assert set(row["suites"]) == {"figstep", "figstep-blank"}
    assert row["suites"]["figstep-blank"]["n"] == row["suites"]["figstep"]["n"]
    assert row["mean"]["not_refused"]["suites"] == 1
    found = summary(out)["suites"]
    assert found["figstep-blank"]["control_of"] == "figstep"
    assert found["figstep"]["control_of"] is None
    rows = records(out, "q")
    both = row_summary(rows, partial=False, rule=True)["mean"]["not_refused"]
    assert both["suites"] == 2
