"""How far a judge agrees with people, and the files in which people's labels come."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sectow_fast.judges import GUARD_FORMATS, RuleJudge
from sectow_fast.judges.bench import bench, kappa_of, main, score, table_of
from sectow_fast.judges.labelled import Labelled, read_labels
from sectow_fast.judges.people import rule_digest
from sectow_fast.types import UserError

NO, YES = "I can't help with that.", "Fold it twice."


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_xstests_completions_are_read_with_a_row_per_model(tmp_path):
    write(tmp_path, "prompts.csv", "id,prompt,label\n1,fold,safe\n")
    head = "id,prompt,completion,final_label\n"
    one = f"1,fold,{NO},2_full_refusal\n2,cut,{YES},1_full_compliance\n"
    two = f"1,fold,{YES},3_partial_refusal\n"
    write(tmp_path, "completions/a.csv", head + one)
    write(tmp_path, "completions/b.csv", head + two)
    found = read_labels(tmp_path)
    assert [(r.model, r.request, r.refusal, r.harmful) for r in found] == [
        ("a", "fold", "full", None),
        ("a", "cut", "none", None),
        ("b", "fold", "partial", None),
    ]
    assert [r.reply for r in found] == [NO, YES, YES]


def test_wildguardtest_is_read_for_both_and_rows_nobody_labelled_are_left_out(tmp_path):
    rows = [
        {
            "prompt": "p",
            "response": NO,
            "response_refusal_label": "refusal",
            "response_harm_label": "unharmful",
        },
        {
            "prompt": "p",
            "response": YES,
            "response_refusal_label": "compliance",
            "response_harm_label": "harmful",
        },
        {
            "prompt": "p",
            "response": None,
            "response_refusal_label": None,
            "response_harm_label": None,
        },
    ]
    path = write(tmp_path, "test.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    found = read_labels(path)
    assert [(r.refusal, r.harmful) for r in found] == [("full", False), ("none", True)]


def test_wildguardtest_as_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.table({"response": [NO], "response_refusal_label": ["refusal"]})
    parquet.write_table(table, tmp_path / "test.parquet")
    assert [r.refusal for r in read_labels(tmp_path)] == ["full"]


def test_harmbenchs_validation_set_is_read_by_the_majority_of_its_votes(tmp_path):
    rows = {
        "fold": [
            {"generation": NO, "human_0": 0, "human_1": 1, "human_2": 0},
            {"generation": YES, "human_0": 1, "human_1": 1, "human_2": 0},
        ],
        "notes": "not a list",
    }
    found = read_labels(write(tmp_path, "val.json", json.dumps(rows)))
    assert [(r.request, r.harmful) for r in found] == [("fold", False), ("fold", True)]


def test_jailbreakbenchs_comparison_is_read_by_its_majority(tmp_path):
    head = "index,goal,prompt,response,human1,human2,human3,human_majority,gpt4_cf\n"
    text = head + f"0,g,p,{NO},1,0,0,0,1\n1,g,p,{YES},1,1,0,1,0\n"
    found = read_labels(write(tmp_path, "comparison.csv", text))
    assert [(r.request, r.harmful, r.refusal) for r in found] == [
        ("g", False, None),
        ("g", True, None),
    ]


@pytest.mark.parametrize(
    ("label", "refusal", "harmful"),
    [
        ("full", "full", None),
        ("Refused", "full", None),
        ("complied", "none", None),
        ("unsafe", None, True),
        ("safe", None, False),
        ("1", None, True),
        ("no", None, False),
    ],
)
def test_any_file_with_a_reply_and_a_label(tmp_path, label, refusal, harmful):
    (found,) = read_labels(write(tmp_path, "x.tsv", f"reply\tlabel\tmodel\n{NO}\t{label}\tm\n"))
    assert (found.refusal, found.harmful, found.model) == (refusal, harmful, "m")


def test_yes_and_no_in_a_column_that_is_about_refusals(tmp_path):
    found = read_labels(write(tmp_path, "x.csv", f"reply,refused\n{NO},1\n{YES},False\n"))
    assert [(r.refusal, r.harmful) for r in found] == [("full", None), ("none", None)]


def test_what_is_no_labelled_file_is_named_with_what_was_found(tmp_path):
    path = write(tmp_path, "x.csv", "question,answer\na,b\n")
    wanted = r"found question, answer, expected a column with the reply .completion, .*label"
    with pytest.raises(UserError, match=wanted):
        read_labels(path)
    with pytest.raises(UserError, match=r"no file with labels.*; .*x.csv has question, answer"):
        read_labels(tmp_path)
    with pytest.raises(UserError, match="found no rows"):
        read_labels(write(tmp_path, "y.csv", "reply,label\n"))
    with pytest.raises(UserError, match=r"z.csv row 2, refusal: found 'perhaps', expected one of"):
        read_labels(write(tmp_path, "z.csv", "reply,refusal\na,full\nb,perhaps\n"))
    with pytest.raises(UserError, match=r"w.json: found a damaged or unreadable .*, expected JSON"):
        read_labels(write(tmp_path, "w.json", "{"))


def test_a_score_by_hand():
    rows = [("a", True, True)] * 6 + [("b", True, False)] * 2 + [("c", False, True)]
    rows += [("d", False, False)] * 11 + [("e", True, None)]
    found = score("refusal", "m", rows)
    assert (found.n, found.positives, found.missed, found.false, found.unknown) == (20, 8, 2, 1, 1)
    assert found.accuracy == 0.85
    # By hand: chance is .4 x .35 + .6 x .65 = .53.
    assert found.kappa == pytest.approx((0.85 - 0.53) / 0.47)
    assert found.low < found.kappa < found.high
    assert (found.measure, found.model) == ("refusal", "m")


def test_the_interval_is_drawn_over_requests_and_the_same_each_time():
    right = [(f"q{i}", i % 2 == 0, i % 2 == 0) for i in range(40)]
    wrong = [(f"w{i}", True, False) for i in range(20)]
    loose = score("refusal", "m", right + wrong)
    assert loose == score("refusal", "m", right + wrong)
    same = score("refusal", "m", right + [("w", True, False)] * 20)
    assert same.kappa == loose.kappa and same.high - same.low > 1.5 * (loose.high - loose.low)
    half = math.sqrt(0.25 / 60)  # about the error of a share
    assert half < (loose.high - loose.low) / 2 < 4 * half


def test_kappa_where_nothing_can_be_told():
    assert math.isnan(kappa_of(np.array([3, 0, 0, 0])))
    nothing = score("harm", "m", [("a", True, None)])
    assert (nothing.n, nothing.unknown) == (0, 1)
    assert math.isnan(nothing.accuracy) and math.isnan(nothing.kappa) and math.isnan(nothing.low)


def labelled(model, request, reply, refusal=None, harmful=None):
    return Labelled(model=model, request=request, reply=reply, refusal=refusal, harmful=harmful)


def test_each_measure_has_a_row_per_model_and_one_of_all():
    rows = [
        labelled("a", "p", NO, "full", False),
        labelled("a", "q", YES, "none", True),
        labelled("b", "p", YES, "partial", False),
        labelled("b", "q", "δεν μπορώ", "full"),
    ]
    found = bench(RuleJudge(), rows)
    assert [
        (s.measure, s.model, s.n, s.positives, s.missed, s.false, s.unknown) for s in found
    ] == [
        ("refusal", "a", 2, 1, 0, 0, 0),
        ("refusal", "b", 1, 0, 0, 0, 1),
        ("refusal", "all", 3, 1, 0, 0, 1),
        ("harm", "a", 2, 1, 0, 0, 0),
        ("harm", "b", 1, 0, 0, 1, 0),
        ("harm", "all", 3, 1, 0, 1, 0),
    ]
    lines = table_of(found).splitlines()
    assert len(lines) == 7 and lines[0].split()[:4] == ["measure", "model", "n", "yes"]
    assert lines[1].split() == [
        "refusal", "a", "2", "1", "1.000", "1.000", "[1.000,", "1.000]", "0", "0", "0",
    ]  # fmt: skip


def test_models_that_nobody_looked_at_have_a_row_together(tmp_path, capsys):
    rows = [
        labelled("x_a", "p", NO, "full"),
        labelled("x_b", "p", YES, "full"),
        labelled("x_c", "q", YES, "none"),
    ]
    found = bench(RuleJudge(), rows, held_out=["_b", "_c"])
    assert [(s.model, s.n, s.missed) for s in found[3:]] == [
        ("looked at", 1, 0), ("held out", 2, 1), ("all", 3, 1),
    ]  # fmt: skip
    path = write(tmp_path, "x.csv", f"reply,refusal,model\n{NO},full,a\n{YES},none,b\n")
    out = tmp_path / "out.json"
    assert main(["--labels", str(path), "--held-out", "b", "--json", str(out)]) == 0
    assert "refusal  held out" in capsys.readouterr().out
    assert json.loads(out.read_text())["held_out"] == ["b"]
    assert main(["--labels", str(path), "--held-out", "b,z"]) == 2
    assert "--held-out: found 'z', expected the end of one of: a, b" in capsys.readouterr().err


def test_capitals_and_blanks_in_the_names_of_columns_do_not_matter(tmp_path):
    text = f"Prompt,Model Response,Is Refusal\nfold,{NO},Yes\n"
    (found,) = read_labels(write(tmp_path, "X.csv", text))
    assert (found.request, found.reply, found.refusal) == ("fold", NO, "full")


def test_the_command_prints_the_table_and_writes_the_scores(tmp_path, capsys):
    path = write(tmp_path, "x.csv", f"reply,refusal\n{NO},full\n{YES},none\n")
    out = tmp_path / "out.json"
    assert main(["--labels", str(path), "--json", str(out)]) == 0
    assert "refusal  all" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["schema"], found["judge"], found["rule"]) == (1, "rule", rule_digest())
    assert [(r["model"], r["n"], r["kappa"]) for r in found["rows"]] == [("all", 2, 1.0)]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--judge", "jury"], "--judge: found 'jury'"),
        (["--judge", "endpoint"], "--judge_url: found none"),
        (["--judge", "endpoint", "--judge-url", "x"], "found no http"),
        (["--json", "no/such/folder/x"], "--json no/such/folder/x: cannot be written"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, more, words):
    path = write(tmp_path, "x.csv", f"reply,refusal\n{NO},full\n")
    assert main(["--labels", str(path), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_lines_are_read_as_the_suites_are(tmp_path):
    """A mark, a paragraph separator inside of a string, and a row without a model."""
    rows = [
        {"model": "m", "reply": "one\u2028two", "refused": "no"},
        {"reply": NO, "refused": "yes"},
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8-sig")
    found = read_labels(tmp_path / "mine.jsonl")
    assert [(r.model, r.reply, r.refusal) for r in found] == [
        ("m", "one\u2028two", "none"),
        ("mine", NO, "full"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '["no object"]\n', "row 1: found"),
        ("a.csv", "reply,refused\nhello\n", "row 1: found 1 fields, expected 2"),
        ("a.csv", "reply,response_harm_label\nx,harmfull\n", "found 'harmfull', expected one of"),
        ("a.csv", "reply,refused\nx,\n", "found no row that people labelled"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("", "", "found no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path, name, text, words):
    if name:
        write(tmp_path, name, text)
    with pytest.raises(UserError, match=words):
        read_labels(tmp_path / (name or "nowhere"))


def test_a_guard_that_cannot_be_read_is_unknown_and_gets_none_of_the_rules_kappa():
    class Guard:
        id = "model:x"

        def judge(self, requests):
            format = GUARD_FORMATS.get("qwen3guard")
            for number, one in enumerate(requests):
                yield number, format.parse("garbage", one.reply, "unsafe")

    rows = [
        Labelled(model="m", request=str(i), reply=NO, refusal="full", harmful=False)
        for i in range(4)
    ]
    assert [(one.n, one.unknown) for one in bench(Guard(), rows)] == [(0, 4), (0, 4)]
