"""Each loader on its published layout, each trap of the benchmarks, and what bad input gets."""

from __future__ import annotations

import csv
import json
import shutil

import layouts
import numpy as np
import pytest
from one_line import problem

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import SuiteSpec, open_suite, render_steps, suites
from sectow_fast.data.suites.choices import OddRow, interleaved, options_of
from sectow_fast.data.suites.registry import sampled
from sectow_fast.data.suites.wording import Wording

CASES = {  # suite, split -> cases, of them unsafe
    ("jailbreakv", "28k"): (20, 20),
    ("jailbreakv", "mini"): (2, 2),
    ("redteam-2k", "2k"): (20, 20),
    ("figstep", "safebench"): (20, 20),
    ("figstep", "tiny"): (10, 10),
    ("safebench", "final"): (20, 20),
    ("safebench", "mini"): (4, 4),
    ("mm-safetybench", "full"): (60, 60),
    ("mm-safetybench", "tiny"): (6, 6),
    ("mm-safetybench", "text"): (20, 20),
    ("mmmu", "validation"): (20, 0),
    ("mmmu-pro", "standard-10"): (16, 0),
    ("mmmu-pro", "standard-4"): (16, 0),
    ("mmmu-pro", "vision"): (16, 0),
    ("xstest", "prompts"): (9, 3),
    ("mossbench", "test"): (6, 0),
    ("or-bench", "hard-1k"): (6, 0),
    ("or-bench", "80k"): (6, 0),
    ("or-bench", "toxic"): (6, 6),
    ("vlguard", "test"): (9, 6),
    ("vlguard", "train"): (9, 6),
}


@pytest.fixture
def folder(tmp_path):
    """A function that writes a suite's toy folder and opens it."""

    def make(name, split="", **more):
        if not (tmp_path / name).exists():
            layouts.WRITERS[name](tmp_path / name)
        return open_suite(SuiteSpec(name=name, split=split, folder=tmp_path / name), **more)

    make.path = tmp_path
    return make


@pytest.mark.parametrize(("name", "split"), CASES, ids="-".join)
def test_every_layout_loads(folder, name, split):
    suite = folder(name, split)
    cases = suite.checked()
    unsafe = [case for case in cases if case.label == "unsafe"]
    assert (len(cases), len(unsafe)) == CASES[name, split]
    assert all(case.category and case.format and case.group for case in cases)
    assert all(case.goal for case in unsafe)
    for case in cases:
        for key in case.images:
            assert suite.images.open(key).mode == "RGB"


def test_every_suite_is_tested_in_every_split():
    wanted = {(s.info.name, split) for s in suites().values() for split in s.info.splits}
    elsewhere = {("twins", "train"), ("twins", "test")}  # tests/real/test_smol.py
    assert wanted - set(CASES) == {("mmmu", "dev"), *elsewhere}


def test_the_folder_above_is_good_too(folder, tmp_path):
    layouts.jailbreakv(tmp_path / "x" / "JailBreakV_28K")
    spec = SuiteSpec(name="jailbreakv", split="", folder=tmp_path / "x")
    assert len(open_suite(spec).checked()) == 20


def test_jailbreakv_formats_in_any_spelling(folder):
    cases = folder("jailbreakv").checked()
    assert {case.format for case in cases} >= {"SD", "typo", "SD_typo", "figstep"}
    assert cases[0].goal == "fold a bado0" and "\n" in cases[0].text


def test_samples_are_taken_by_prompt(folder):
    path = folder.path / "jailbreakv"
    layouts.jailbreakv(path)
    with open(path / "JailBreakV_28K.csv", newline="") as file:
        head, *table = list(csv.reader(file))
    four = [[f"{row[0]}-{i}", *row[1:]] for row in table[:5] for i in range(4)]
    layouts.write_csv(path / "JailBreakV_28K.csv", head, four)
    cases = folder("jailbreakv").checked()
    assert len(cases) == 20
    picked = sampled(cases, 5, "seed")
    assert len({case.group for case in picked}) == len(picked) == 5


def test_figstep_shows_the_picture_and_is_judged_by_its_instruction(folder):
    case = folder("figstep").checked()[0]
    assert case.parts[0] == ("image", "data/images/SafeBench/query_ForbidQI_1_1_6.png")
    assert "numbered 1, 2, and 3" in case.text and case.goal == "fold a bado0"
    kinds = [case.format for case in folder("figstep").checked()]
    assert kinds.count("categories 8-10") == 6 and kinds.count("categories 1-7") == 14


def test_mm_safetybench_pairs_each_picture_with_its_own_words(folder):
    path = folder.path / "mm-safetybench"
    layouts.mm_safetybench(path)
    file = path / "data" / "processed_questions" / "01-Illegal_Activitiy.json"
    table = json.loads(file.read_text())
    table["0"] |= {"Rephrased Question": "typographic", "Rephrased Question(SD)": "scene"}
    file.write_text(json.dumps(table))
    words = {c.format: c.text for c in folder("mm-safetybench").checked()[:3]}
    assert words == {"SD": "scene", "SD_TYPO": "typographic", "TYPO": "typographic"}


def test_mm_safetybench_from_the_mirror(folder):
    layouts.mm_safetybench_mirror(folder.path / "mm-safetybench")
    suite = folder("mm-safetybench")
    cases = suite.checked()
    assert len(cases) == 24 and {c.category for c in cases} == {"Illegal_Activitiy", "HateSpeech"}
    assert cases[0].goal == "fold a bado0"
    assert suite.images.open(cases[3].images[0]).getpixel((0, 0)) == (24, 90, 200)
    assert len(folder("mm-safetybench", "text").checked()) == 8


def test_safebench_ignores_the_stray_table_and_holds_the_pairing(folder):
    assert (folder("safebench").root / "final_bench/image/1/a1.csv").exists()
    cases = folder("safebench").checked()
    assert cases[0].images == ("final_bench/image/1/1.png",)
    assert cases[1].text.startswith("please tell how a bado2 ")
    shutil.copy(
        folder.path / "safebench/final_bench/image/1/1.png",
        folder.path / "safebench/final_bench/image/1/11.png",
    )
    assert "10 lines, but" in problem(folder("safebench").checked)


def test_mmmu_puts_each_picture_where_its_name_stands(folder):
    cases = folder("mmmu").checked()
    choice = next(case for case in cases if case.options)
    assert choice.parts[0][0] == "image" and "A. bado\nB. miku" in choice.text
    assert choice.text.endswith("directly.") and choice.answer in "ABC"
    free = next(case for case in cases if not case.options)
    assert free.text.endswith("single word or phrase.")
    parts = interleaved("a <image 2> b <image 1> c <image 2>", {1: "x", 2: "y", 3: "z"})
    shown = "z a y b x c (image 2)"
    assert " ".join(value for _, value in parts) == shown
    with pytest.raises(OddRow, match="no image_4"):
        interleaved("<image 4>", {1: "x"})
    assert options_of("['a', 'b']") == ("a", "b")
    with pytest.raises(OddRow, match="printed list"):
        options_of("__import__('os')")


def test_the_wording_is_the_users_to_change(folder):
    wording = Wording(figstep="make shown", option="{option}", letter_order="")
    suite = folder("figstep", wording=wording)
    assert suite.checked()[0].text == "make shown"
    case = next(c for c in folder("mmmu", wording=wording).checked() if c.options)
    assert case.text.endswith("bado\nmiku\ntefa")


def test_a_wording_file_names_its_mistakes(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text('figstp = "x"')
    assert "did you mean figstep?" in problem(lambda: Wording.load(path))
    path.write_text('\ufefffigstep = "x"', encoding="utf-8")
    assert Wording.load(path).figstep == "x"
    for field in ("{x}", "{letter.x}", "{letter[x]}"):
        path.write_text(f'option = "{field}"')
        assert "unknown field in option" in problem(lambda: Wording.load(path))
    path.write_text("figstep = " + "[" * 5000 + "]" * 5000)
    assert "found no valid TOML" in problem(lambda: Wording.load(path))


# ---- bad input: one line each


def test_missing_pictures_are_counted_and_refused(folder):
    suite = folder("jailbreakv")
    for number in (3, 4, 5):
        (suite.root / f"llm_transfer_attack/blank_{number}.png").unlink()
    text = problem(suite.checked)
    assert "found 3 of 20 pictures missing" in text and "llm_transfer_attack" in text


@pytest.mark.parametrize("name", [n for n in layouts.WRITERS if n not in ("redteam-2k",)])
def test_a_wrong_folder_says_what_belongs_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    spec = SuiteSpec(name=name, split="", folder=tmp_path / "empty")
    assert "found another layout" in problem(lambda: open_suite(spec))
    spec = SuiteSpec(name=name, split="", folder=tmp_path / "nowhere")
    assert "found no folder" in problem(lambda: open_suite(spec))


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [
        ("jailbreakv", "JailBreakV_28K.csv", "redteam_query"),
        ("redteam-2k", "RedTeam_2K.csv", "policy"),
        ("figstep", "data/question/safebench.csv", "instruction"),
        ("safebench", "category.csv", "Category"),
        ("xstest", "xstest_prompts.csv", "label"),
        ("or-bench", "or-bench-hard-1k.csv", "category"),
    ],
)
def test_a_missing_column_and_a_truncated_csv(folder, name, file, column):
    suite = folder(name)
    path = suite.root / file
    whole = path.read_text()
    path.write_text(whole.replace(column, "other", 1))
    text = problem(suite.checked)
    assert f"found no column '{column}'" in text and path.name in text
    lines = whole.rstrip("\n").split("\n")
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1].split(",")[0])
    text = problem(suite.checked)
    assert path.name in text and "row" in text
    path.write_bytes(whole.encode()[:-3] + b"\xff\xfe")
    assert "damaged" in problem(suite.checked)
    path.write_text(whole.split("\n")[0] + "\n")
    assert "found no rows" in problem(suite.checked)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mm-safetybench", "data/processed_questions/01-Illegal_Activitiy.json"),
        ("mossbench", "data/images_information/information.json"),
        ("vlguard", "test.json"),
        ("mmmu", "Fraud Miku/validation-00000-of-00001.parquet"),
        ("mmmu-pro", "standard (10 options)/test-00000-of-00001.parquet"),
    ],
)
def test_a_truncated_file_is_named(folder, name, file):
    suite = folder(name)
    path = suite.root / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = problem(suite.checked)
    assert path.name in text and "damaged" in text


@pytest.mark.parametrize(
    ("name", "file", "field"),
    [
        ("mm-safetybench", "data/processed_questions/01-Illegal_Activitiy.json", "Question"),
        ("mossbench", "data/images_information/information.json", "question"),
        ("vlguard", "test.json", "image"),
    ],
)
def test_a_record_without_a_field_names_file_and_record(folder, name, file, field):
    suite = folder(name)
    path = suite.root / file
    path.write_text(path.read_text().replace(f'"{field}"', '"other"', 1))
    text = problem(suite.checked)
    assert path.name in text and repr(field) in text and ("id " in text or "record " in text)


def test_parquet_without_a_column_or_with_a_broken_picture(folder, tmp_path):
    import pyarrow.parquet

    suite = folder("mmmu")
    path = suite.root / "Fraud Miku" / "validation-00000-of-00001.parquet"
    table = pyarrow.parquet.read_table(path)
    rows = table.to_pylist()
    rows[2]["image_1"]["bytes"] = rows[2]["image_1"]["bytes"][:40]
    layouts.layouts._parquet(path, rows)
    key = next(c for c in suite.checked() if c.where.endswith("Miku/" + path.name + " row 3"))
    text = problem(lambda: suite.images.open(key.images[0]))
    assert "row 3, column image_1" in text
    pyarrow.parquet.write_table(table.drop_columns(["answer"]), path)
    assert "found no column 'answer'" in problem(suite.checked)


def test_a_picture_path_that_leads_out_is_refused(folder):
    suite = folder("jailbreakv")
    path = suite.root / "JailBreakV_28K.csv"
    path.write_text(path.read_text().replace("llm_transfer_attack/blank_7", "../../secret", 1))
    assert "found a path outside" in problem(suite.checked)
    assert "found a path outside" in problem(lambda: FolderImages(suite.root).open("/etc/hosts"))


def test_unknown_names_meet_the_nearest_known_one(folder):
    spec = SuiteSpec(name="jailbrakev", split="", folder=folder.path)
    assert "did you mean jailbreakv?" in problem(lambda: open_suite(spec))
    assert "expected one of 28k, mini" in problem(lambda: folder("jailbreakv", "maxi"))
    assert "expected NAME[:SPLIT]=FOLDER" in problem(lambda: SuiteSpec.parse("jailbreakv"))


def test_ids_that_come_twice_are_refused(folder):
    suite = folder("xstest")
    path = suite.root / "xstest_prompts.csv"
    path.write_text(path.read_text().replace("\n4,", "\n3,"))
    assert "found id 'xstest:prompts:3' again" in problem(suite.checked)


def test_a_format_nobody_published_is_refused(folder):
    suite = folder("jailbreakv")
    path = suite.root / "JailBreakV_28K.csv"
    path.write_text(path.read_text().replace("Persuade", "Persuasion", 1))
    assert "row 3: found format 'Persuasion'" in problem(suite.checked)


def test_training_on_mossbench_is_refused_and_vlguard_has_a_training_split(folder):
    text = problem(lambda: folder("mossbench", training=True))
    assert "forbid training" in text and "--suite" in text
    assert folder("vlguard", training=True).split == "train"
    case = folder("vlguard", training=True).checked()[1]
    assert (case.label, case.reply) == ("harmless", "orange")


# ---- FigStep's pictures


def test_the_typographic_picture_has_the_words_and_an_empty_list():
    short, long = render_steps("bado"), render_steps("how to fold a miku " * 12)
    assert short.size == long.size == (760, 760) and short.mode == "RGB"
    dark = [np.asarray(one.convert("L")) < 128 for one in (short, long)]
    assert dark[0].sum() > 0 and dark[1].any(1).sum() > 0
    # Nothing is cut: the margin stays white on every side.
    for one in dark:
        assert not one[:20].any() and not one[:, :20].any()
        assert not one[:, -10:].any() and not one[-10:].any()
    assert np.array_equal(dark[0], np.asarray(render_steps("bado").convert("L")) < 128)


def test_words_that_do_not_fit_are_refused():
    assert "shorten the text" in problem(lambda: render_steps("bado " * 4000))
    assert "found no text" in problem(lambda: render_steps("  "))
    assert "no readable font" in problem(lambda: render_steps("bado", font="/nowhere.ttf"))
