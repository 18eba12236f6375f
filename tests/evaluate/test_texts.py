"""What is written keeps its rows, whatever a reply holds; what no encoder writes is counted."""

from __future__ import annotations

import csv
import io
import json

import layouts
import pandas
import pytest

from sectow_fast.data.suites import SuiteCase, SuiteSpec, open_suite
from sectow_fast.data.suites.wording import Wording
from sectow_fast.evaluation.asking import open_suites
from sectow_fast.evaluation.export import WRITERS, write_exports
from sectow_fast.evaluation.records import JsonLines
from sectow_fast.report.models import sample_of
from sectow_fast.report.page import write_page
from sectow_fast.texts import json_text, mended

REPLIES = (
    "one",
    "first\rsecond",
    "\r",
    'quote " tab \t line\nend',
    "a\r\nb\n\n",
    "\u2028 \x85 \u2029 \x0b \x0c \x1c",
    "'=1+1",
    "\U0001f600 \u6298",
    " blanks at both ends ",
)


def rows(replies=REPLIES):
    """Cases that every export takes, each with a reply; the words are as odd as the replies."""
    return [
        (
            SuiteCase(
                id=f"toy:{i}",
                suite="toy",
                split="all",
                label="unsafe",
                parts=(("image", "a.png"), ("text", f"ask {reply}")),
                goal=f"goal {reply}",
                category=f"kind {reply}",
                format="SD",
                metadata={"id": str(i), "from": reply, "format": "Template"},
            ),
            {"model_response": reply, "label": "unsafe", "refusal": "none"},
        )
        for i, reply in enumerate(replies)
    ]


@pytest.mark.parametrize(("name", "comma"), [("vlmevalkit", "\t"), ("jailbreakv", ",")])
def test_no_row_of_an_exported_table_splits(name, comma):
    _, text = WRITERS[name]("model", rows())
    head, *table = list(csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True))
    assert [row[-1] for row in table] == list(REPLIES)
    assert [
        row[head.index({"\t": "question", ",": "jailbreak_query"}[comma])] for row in table
    ] == [f"ask {reply}" for reply in REPLIES]
    found = pandas.read_csv(io.StringIO(text), sep=comma, keep_default_na=False)
    assert list(found.iloc[:, -1]) == list(REPLIES)


def test_the_index_of_vlmevalkit_is_a_number():
    _, text = WRITERS["vlmevalkit"]("model", rows())
    found = pandas.read_csv(io.StringIO(text), sep="\t")
    assert list(found["index"]) == list(range(len(REPLIES)))
    assert list(found["id"]) == [f"toy:{i}" for i in range(len(REPLIES))]


def test_exported_json_keeps_lines_and_halves_of_pairs():
    replies = (*REPLIES, "half \ud83d of a pair")
    _, lines = WRITERS["lmms-eval"]("model", rows(replies))
    assert len(lines.splitlines()) == len(replies)
    assert [json.loads(line)["resps"][0][0] for line in lines.splitlines()] == list(replies)
    _, text = WRITERS["mm-safetybench"]("model", rows(replies))
    told = [
        one["ans"]["model"]["text"]
        for kinds in json.loads(text).values()
        for one in kinds["SD"].values()
    ]
    assert told == list(replies)
    _, text = WRITERS["mmmu"]("model", rows(replies))
    assert list(json.loads(text.encode()).values()) == list(replies)


def test_halves_in_a_table_are_replaced_and_counted(tmp_path):
    layouts.xstest(tmp_path / "xstest")
    asked = open_suites([f"xstest={tmp_path / 'xstest'}"], wording=Wording(), limit=0, seed=0)
    replies = ["whole", "a \ud83d b \ude00 c", "\ud83d\ude00", *["x"] * 6]
    records = [
        {"test_case_id": case.id, "model_response": reply, "label": "unsafe", "refusal": "none"}
        for case, reply in zip(asked.cases["xstest"], replies, strict=True)
    ]
    notes = write_exports(tmp_path, ["vlmevalkit", "lmms-eval"], "m", asked, records)
    path = tmp_path / "vlmevalkit" / "m-xstest.tsv"
    found = list(pandas.read_csv(path, sep="\t")["prediction"])
    assert found[:3] == ["whole", "a \ufffd b \ufffd c", "\U0001f600"]
    assert len(notes) == 1 and notes[0].startswith(f"{path}: 2 halves of surrogate pairs")


def test_records_are_lines_for_every_reader_and_come_back(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [
        {"test_case_id": f"{i}", "model_response": reply}
        for i, reply in enumerate((*REPLIES, "half \udc00 of a pair"))
    ]
    file = JsonLines(path)
    for row in written:
        file.append(row)
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(written)
    file.drop({"0"})
    file.close()
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(written) - 1
    again = JsonLines(path)
    assert list(again.rows.values()) == written[1:]
    again.close()


def test_a_report_shows_samples_of_lines_that_an_older_version_wrote(tmp_path):
    record = {
        "test_case_id": "toy:1",
        "benchmark": "toy",
        "prompt": "a\u2028b\x85",
        "model_response": "\ud83d",
    }
    record |= {"label": "unsafe", "refusal": "none", "correct": None}
    (tmp_path / "rows" / "m").mkdir(parents=True)
    line = json.dumps(record | {"model_response": "c"}, ensure_ascii=False) + "\n"
    (tmp_path / "rows" / "m" / "records.jsonl").write_text(
        line + json_text(record | {"test_case_id": "toy:2"}) + "\n", encoding="utf-8", newline=""
    )
    row = {"name": "m", "folder": "m", "suites": {"toy": {}}}
    shown = sample_of(tmp_path, [row], {}, False)
    assert [one["request"] for one in shown] == ["a\u2028b\x85"] * 2
    page = write_page(tmp_path / "report.html", "".join(one["reply"] for one in shown))
    assert page.read_text(encoding="utf-8") == "c\ufffd"


def test_rows_that_were_left_out_are_noted_where_suites_are_opened(tmp_path):
    layouts.vlguard(tmp_path / "vlguard")
    path = tmp_path / "vlguard" / "test.json"
    path.write_text(path.read_text().replace("bado0", r"\ud83d bado0"))
    asked = open_suites([f"vlguard={tmp_path / 'vlguard'}"], wording=Wording(), limit=0, seed=0)
    assert any("halves of surrogate pairs" in note for note in asked.notes)
    assert open_suite(SuiteSpec.parse(f"vlguard={tmp_path / 'vlguard'}")).checked() == list(
        asked.cases["vlguard"]
    )


def test_only_lone_halves_are_counted():
    assert mended("a\ud83d\ude00b \U0001f600") == ("a\U0001f600b \U0001f600", 0)
    assert mended("\ude00\ud83d") == ("\ufffd\ufffd", 2)
    assert mended("caf\u00e9") == ("caf\u00e9", 0)
