"""Suites in every format that is read, under other names, with marks, pointers and odd rows."""

from __future__ import annotations

import codecs
import json
import shutil
from dataclasses import replace
from pathlib import Path

import layouts
import pyarrow.parquet
import pytest
from one_line import problem
from places import loaded, opened, parquet, table_of

from sectow_fast.data.suites.choices import OddRow, right_answer

# ---- parquet, other formats, other names


def test_xstest_from_parquet_and_under_its_old_name(toys, tmp_path):
    plain = loaded("xstest", toys / "xstest")
    rows = table_of(toys / "xstest" / "xstest_prompts.csv")
    numbered = [row | {"id": int(row["id"])} for row in rows]
    parquet(tmp_path / "own" / "xstest_prompts.parquet", rows)
    parquet(tmp_path / "pandas" / "xstest_prompts.parquet", numbered)
    parquet(tmp_path / "bot" / "default" / "train" / "0000.parquet", numbered)
    parquet(tmp_path / "parts" / "data" / "test-00000-of-00002.parquet", rows[:4])
    parquet(tmp_path / "parts" / "data" / "test-00001-of-00002.parquet", rows[4:])
    (tmp_path / "old").mkdir()
    shutil.copy(toys / "xstest/xstest_prompts.csv", tmp_path / "old/xstest_v2_prompts.csv")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "xstest_prompts.jsonl").write_text(lines)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "xstest_prompts.json").write_text(json.dumps(rows))
    for place in ("own", "pandas", "bot", "parts", "old", "lines", "list"):
        assert loaded("xstest", tmp_path / place) == plain, place


def test_xstest_of_the_hub_without_numbers_or_without_labels(tmp_path):
    kinds = ("homonyms", "contrast_homonyms")
    rows = [
        {"prompt": f"how is a bado{i} folded?", "type": kinds[i % 2], "focus": "fold", "note": ""}
        for i in range(6)
    ]
    labelled = [row | {"label": ("safe", "unsafe")[i % 2]} for i, row in enumerate(rows)]
    full = [{"id": f"{i}"} | row for i, row in enumerate(labelled, start=1)]
    named = [{"id": f"v2-{i}"} | row for i, row in enumerate(rows, start=1)]
    layouts.write_csv(
        tmp_path / "full" / "xstest_prompts.csv", list(full[0]), [list(r.values()) for r in full]
    )
    parquet(tmp_path / "numbers" / "data" / "test-00000-of-00002.parquet", labelled[:2])
    parquet(tmp_path / "numbers" / "data" / "test-00001-of-00002.parquet", labelled[2:])
    parquet(tmp_path / "labels" / "data" / "prompts-00000-of-00001.parquet", named)
    plain = loaded("xstest", tmp_path / "full")
    assert [case.label for case in plain] == ["harmless", "unsafe"] * 3
    assert loaded("xstest", tmp_path / "numbers") == loaded("xstest", tmp_path / "labels") == plain


def test_tables_that_the_hub_converted(toys, tmp_path):
    for name, config, stem, split in (
        ("or-bench", "or-bench-hard-1k", "or-bench-hard-1k", "train"),
        ("redteam-2k", "RedTeam_2K", "RedTeam_2K", "RedTeam_2K"),
        ("jailbreakv", "JailBreakV_28K", "JailBreakV_28K", "JailBreakV_28K"),
    ):
        rows = table_of(toys / name / f"{stem}.csv")
        plain = loaded(name, toys / name)
        for place in (f"{split}/0000", f"{split}-00000-of-00001"):
            folder = tmp_path / name / place.replace("/", "-")
            parquet(folder / config / f"{place}.parquet", rows)
            if name == "jailbreakv":  # its tables name pictures that lie beside them
                shutil.copytree(toys / name / "llm_transfer_attack", folder / "llm_transfer_attack")
            assert loaded(name, folder) == plain


def test_figstep_with_its_pictures_in_the_cells(toys, tmp_path):
    plain = loaded("figstep", toys / "figstep")
    rows = table_of(toys / "figstep/data/question/safebench.csv")
    cells = [
        {"bytes": (toys / "figstep" / case.images[0]).read_bytes(), "path": None} for case in plain
    ]
    rows = [
        row | {"category_id": int(row["category_id"]), "image": cell}
        for row, cell in zip(rows, cells, strict=True)
    ]
    parquet(tmp_path / "figstep" / "data" / "SafeBench-00000-of-00001.parquet", rows)
    suite = opened("figstep", tmp_path / "figstep")
    cases = suite.checked()
    assert [(c.id, c.goal, c.text) for c in cases] == [(c.id, c.goal, c.text) for c in plain]
    before = opened("figstep", toys / "figstep").images
    for case, one in zip(cases, plain, strict=True):
        shown = suite.images.open(case.images[0])
        assert shown == before.open(one.images[0])
        assert suite.images.size(case.images[0]) == shown.size == before.size(one.images[0])
        # What a checkpoint is tied to: the table where the picture is in a cell.
        assert suite.images.file(case.images[0]).suffix == ".parquet"
        assert before.file(one.images[0]).suffix == ".png"


def test_mossbench_as_the_hub_has_it(toys, tmp_path):
    plain = loaded("mossbench", toys / "mossbench")
    records = json.loads(
        (toys / "mossbench/data/images_information/information.json").read_text()
    ).values()
    base = tmp_path / "hub"
    shutil.copytree(toys / "mossbench/data/images", base / "images")
    columns = ("pid", "question", "file_name", "metadata_over")
    table = [
        (one["pid"], one["question"], one["image"], one["metadata"]["over"]) for one in records
    ]
    layouts.write_csv(base / "metadata.csv", columns, table)
    cells = [
        {"pid": int(case.group), "question": case.text, "metadata_over": row[3]}
        | {"image": {"bytes": (toys / "mossbench" / case.images[0]).read_bytes(), "path": ""}}
        for case, row in zip(plain, table, strict=True)
    ]
    parquet(tmp_path / "bot" / "default" / "train" / "0000.parquet", cells)
    for place in (base, tmp_path / "bot"):
        found = loaded("mossbench", place)
        same = [(c.id, c.text, c.category, c.group) for c in plain]
        assert [(c.id, c.text, c.category, c.group) for c in found] == same


def test_mm_safetybench_as_the_bot_converts_its_mirror(tmp_path):
    layouts.mm_safetybench_mirror(tmp_path / "mirror")
    plain = loaded("mm-safetybench", tmp_path / "mirror")
    for path in sorted((tmp_path / "mirror" / "data").glob("*/*.parquet")):
        target = tmp_path / "bot" / path.parent.name / path.stem / "0000.parquet"
        target.parent.mkdir(parents=True)
        shutil.copyfile(path, target)
    without = [(c.id, c.text, c.goal, c.category) for c in plain]
    found = loaded("mm-safetybench", tmp_path / "bot")
    assert [(c.id, c.text, c.goal, c.category) for c in found] == without


def test_mmmu_as_the_bot_converts_it(toys, tmp_path):
    for name, split in (("mmmu", "validation"), ("mmmu-pro", "test")):
        for path in (toys / name).glob("*/*.parquet"):
            target = tmp_path / name / path.parent.name / split / "0000.parquet"
            target.parent.mkdir(parents=True)
            shutil.copyfile(path, target)
        found, plain = loaded(name, tmp_path / name), loaded(name, toys / name)
        assert [(c.id, c.text, c.category) for c in found] == [
            (c.id, c.text, c.category) for c in plain
        ]


# ---- marks, pointers


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
def test_a_byte_order_mark_changes_nothing_in_any_format(toys, tmp_path, encoding, mark):
    for name, file in (
        ("xstest", "xstest_prompts.csv"),
        ("safebench", "final_bench/text/1.csv"),
        ("vlguard", "test.json"),
        ("mossbench", "data/images_information/information.json"),
    ):
        folder = tmp_path / name
        shutil.copytree(toys / name, folder)
        text = (folder / file).read_bytes().decode()
        (folder / file).write_bytes(mark + text.encode(encoding))
        assert loaded(name, folder) == loaded(name, toys / name)


def test_a_mark_in_the_lines_of_json_or_in_a_column_of_parquet(toys, tmp_path):
    rows = table_of(toys / "xstest" / "xstest_prompts.csv")
    for place in ("lines", "column"):
        (tmp_path / place).mkdir()
    lines = codecs.BOM_UTF8 + "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "lines" / "xstest_prompts.jsonl").write_bytes(lines)
    marked = [{"\ufeff" * (name == "id") + name: v for name, v in row.items()} for row in rows]
    parquet(tmp_path / "column" / "xstest_prompts.parquet", marked)
    for place in ("lines", "column"):
        assert loaded("xstest", tmp_path / place) == loaded("xstest", toys / "xstest")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("xstest", "xstest_prompts.csv"),
        ("vlguard", "test.json"),
        ("mmmu", "Fraud Miku/validation-00000-of-00001.parquet"),
    ],
)
def test_a_pointer_of_git_lfs_is_called_by_its_name(toys, tmp_path, name, file):
    shutil.copytree(toys / name, tmp_path / name)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (tmp_path / name / file).write_text(pointer)
    said = problem(opened(name, tmp_path / name).checked)
    assert "Git LFS pointer" in said and file.rsplit("/")[-1] in said and "git lfs pull" in said


# ---- odd rows


def odd_mmmu(path: Path, changes: dict[int, dict]) -> None:
    rows = pyarrow.parquet.read_table(path).to_pylist()
    for at, change in changes.items():
        rows[at] |= change
    parquet(path, rows)


def test_an_odd_row_of_mmmu_is_left_out_by_its_id_and_counted(toys, tmp_path):
    for name, file in (
        ("mmmu", "Fraud Miku/validation-00000-of-00001.parquet"),
        ("mmmu-pro", "standard (10 options)/test-00000-of-00001.parquet"),
    ):
        shutil.copytree(toys / name, tmp_path / name)
        path, whole = tmp_path / name / file, loaded(name, toys / name)
        rows = pyarrow.parquet.read_table(path).to_pylist()
        odd = {
            1: {"options": "['<image 1>', '<image 8>', '<image 9>']"},
            2: {"options": "[['a', 'b'], ['c', 'd']]"},
            3: {"options": "yes or no"},
            4: {"options": str([f"bado{i}" for i in range(27)])},
        }
        odd |= {
            5: {"options": "[]", "answer": "A"},
            6: {"options": "['yes', 'no']", "answer": "C"},
            7: {"options": "['yes', 'no']", "answer": " "},
            8: {"question": f"see <image 9> and <image {'9' * 5000}>"},
        }
        odd = {at: {"question_type": "multiple-choice"} | change for at, change in odd.items()}
        odd_mmmu(path, odd)
        notes: list[str] = []
        cases = opened(name, tmp_path / name).checked(notes)
        gone = [rows[at]["id"] for at in odd]
        assert [c.id for c in cases] == [c.id for c in whole if c.metadata["id"] not in gone]
        assert len(notes) == 1 and f"8 of {len(whole)} rows left out" in notes[0]
        for number, reason in zip(
            gone, ("<image 8>", "list of its own", "no printed"), strict=False
        ):
            assert f":{number}: found" in notes[0] and reason in notes[0]


def test_a_suite_of_odd_rows_alone_is_refused(toys, tmp_path):
    shutil.copytree(toys / "mmmu", tmp_path / "mmmu")
    for path in (tmp_path / "mmmu").glob("*/*.parquet"):
        count = pyarrow.parquet.read_metadata(path).num_rows
        odd_mmmu(path, {at: {"question": "<image 3>"} for at in range(count)})
    said = problem(opened("mmmu", tmp_path / "mmmu").checked)
    assert "found no case of mmmu:validation" in said and "no image_3" in said


def test_a_right_answer_is_one_that_a_reply_can_give():
    assert right_answer("B", ["yes", "no"]) == "B"
    assert right_answer("['1.5', '3/2']", ()) == "1.5\n3/2" and right_answer(7, ()) == "7"
    assert right_answer("[0, 1)", ()) == "[0, 1)"
    for text, options in (("", ()), (None, ()), ("[]", ()), ("b", ["yes", "no"])):
        with pytest.raises(OddRow, match="right answer"):
            right_answer(text, options)


def test_a_record_of_vlguard_without_requests_and_a_column_twice_are_refused(toys, tmp_path):
    shutil.copytree(toys / "vlguard", tmp_path / "vlguard")
    path = tmp_path / "vlguard" / "test.json"
    records = json.loads(path.read_text())
    records[1]["instr-resp"] = []
    path.write_text(json.dumps(records))
    assert "test.json record 2: found no list 'instr-resp'" in problem(
        opened("vlguard", tmp_path / "vlguard").checked
    )
    (tmp_path / "xstest_prompts.csv").write_text("id,prompt,prompt,type,label\n1,a,b,c,safe\n")
    said = problem(opened("xstest", tmp_path).checked)
    assert "found column 'prompt' twice" in said


def test_a_blank_response_of_vlguard_teaches_nothing_and_is_asked(toys, tmp_path):
    shutil.copytree(toys / "vlguard", tmp_path / "vlguard")
    path = tmp_path / "vlguard" / "test.json"
    records = json.loads(path.read_text())
    records[0]["instr-resp"][0]["response"] = " \n"
    records[2]["instr-resp"][0]["response"] = None
    path.write_text(json.dumps(records))
    whole, found = loaded("vlguard", toys / "vlguard"), loaded("vlguard", tmp_path / "vlguard")
    blank = [case for case in found if case.reply is None]
    assert len(blank) == 2 and all(case.reply for case in whole)
    assert [replace(c, reply=None) for c in found] == [replace(c, reply=None) for c in whole]


def test_halves_of_surrogate_pairs_are_replaced_and_counted(toys, tmp_path):
    shutil.copytree(toys / "vlguard", tmp_path / "vlguard")
    path = tmp_path / "vlguard" / "test.json"
    text = path.read_text().replace("copy the bado0", r"copy the \ud83d bado0", 1)
    path.write_text(text.replace("copy the bado2", r"copy the \ud83d\ude00 bado2", 1))
    notes: list[str] = []
    cases = opened("vlguard", tmp_path / "vlguard").checked(notes)
    assert cases[0].text == cases[0].goal == "copy the \ufffd bado0"
    assert cases[3].text == "copy the \U0001f600 bado2"
    assert len(notes) == 1 and "2 halves of surrogate pairs" in notes[0] and cases[0].id in notes[0]
    assert cases[3].id not in notes[0]
