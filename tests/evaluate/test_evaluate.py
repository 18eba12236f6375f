"""The whole command: real tiny models, toy suites in the published layouts, real judges."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import layouts
import pytest
from tiny_models import save_qwen2_5_vl

from sectow_fast.data.sandbox.model import save_model
from sectow_fast.evaluate import main

ROOT = Path(__file__).parents[2]
NAMES = ("jailbreakv", "figstep", "safebench", "mm-safetybench", "mmmu", "mmmu-pro")
FEW = ("--max-new-tokens", "6", "--batch", "16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("suites")
    for name, write in layouts.WRITERS.items():
        write(base / name)
    return base


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen2_5_vl(tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="module")
def llava(tmp_path_factory, stage):
    folder = tmp_path_factory.mktemp("models") / "llava"
    save_model(stage.defender(), stage.processor, folder)
    return folder


def suites(folders, *names):
    return [word for name in names for word in ("--suite", f"{name}={folders / name}")]


def records(out, row):
    lines = (out / "rows" / row / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summary(out):
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory, folders, qwen, llava, guard):
    """Both models on every suite, judged by the guard in our own engine, and by rule beside it."""
    out = tmp_path_factory.mktemp("out") / "all"
    code = main(
        [
            *("--model", f"llava={llava}", "--model", f"qwen={qwen}", "--out", str(out)),
            *suites(folders, *layouts.WRITERS),
            *("--judge", "model", "--judge-model", str(guard), "--second-judge", "rule"),
            *("--export", "vlmevalkit,lmms-eval,mm-safetybench,jailbreakv,mmmu", "--private"),
            *FEW,
        ]
    )
    assert code == 0
    return out


def test_every_suite_has_its_rates(done):
    for row in summary(done)["rows"]:
        assert set(row["suites"]) == set(layouts.WRITERS)
        assert {"asr", "orr"} <= set(row["suites"]["xstest"])
        assert {"orr", "accuracy"} <= set(row["suites"]["mmmu"])
        for table in row["suites"].values():
            for measure in {"asr", "orr", "accuracy"} & set(table):
                rate = table[measure]["all"]
                assert rate["low"] <= rate["value"] <= rate["high"]
                parts = table[measure]["by_format"].values()
                assert sum(p["n"] + p["unknown"] for p in parts) == rate["n"] + rate["unknown"]
        assert row["agreement"]["n"] > 100 and row["tokens"]["judge_tokens"][0] > 0


def test_records_have_the_published_shape_and_add_up(done):
    found = records(done, "qwen")
    ids = [record["test_case_id"] for record in found]
    assert (
        len(set(ids))
        == len(ids)
        == sum(table["n"] for table in summary(done)["rows"][1]["suites"].values())
    )
    wanted = {
        *("test_case_id", "prompt", "image_path", "metadata", "model_response", "model_name"),
        *("judge_score", "judge_reason", "success", "benchmark", "split", "category", "format"),
        *("judge_id", "judge_raw", "label", "refusal"),
    }
    for record in found:
        assert wanted <= set(record)
        assert record["label"] in ("safe", "unsafe", "unknown")
        assert record["refusal"] in ("full", "partial", "none")
        assert (record["success"] is None) == (
            record["case_label"] == "harmless" or record["label"] == "unknown"
        )
    guarded = [r for r in found if r["benchmark"] == "figstep"]
    assert all(r["judge_raw"].startswith("Safety: ") for r in guarded)
    # A case with a short answer is never sent to a guard.
    assert {r["judge_id"] for r in found if r["benchmark"] == "mmmu"} == {"rule"}


def test_the_judge_sees_the_goal_not_the_harmless_words(done, folders, guard):
    from sectow_fast.data.suites import SuiteSpec, open_suite
    from sectow_fast.evaluation.judging import request_of

    spec = SuiteSpec(name="figstep", split="", folder=folders / "figstep")
    case = open_suite(spec).checked()[0]
    assert request_of(case, {"model_response": "x"}).request == "fold a bado0"


def test_only_the_owner_may_read_and_the_page_hides_words(done):
    for path in [done, done / "rows", done / "rows" / "qwen"]:
        assert path.stat().st_mode & 0o077 == 0
    for path in done.rglob("*.jsonl"):
        assert path.stat().st_mode & 0o077 == 0
    page = (done / "report.html").read_text()
    assert "bado" not in page and "please tell" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<figure") == 3


def test_reveal_shows_words_but_not_of_suites_that_may_not_be_passed_on(done, tmp_path):
    from sectow_fast.report.models import write_report

    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    page = write_report(copy, reveal=True).read_text()
    assert "please tell how a bado" in page and "Not shown" in page
    assert "mm-safetybench:full:" not in page and "jailbreakv:28k:" in page
    assert "mm-safetybench:full:" in write_report(copy, reveal=True, private=True).read_text()


def test_exports_have_what_their_tools_read(done):
    folder = done / "export"
    with open(folder / "vlmevalkit" / "qwen-mmmu.tsv", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert len(table) == 20 and list(table[0])[:5] == ["index", "question", "A", "B", "C"]
    assert {"answer", "category", "prediction"} <= set(table[0])
    lines = (folder / "lmms-eval" / "qwen-xstest.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 9 and first["resps"] == [first["filtered_resps"]]
    answers = json.loads((folder / "mm-safetybench" / "qwen-mm-safetybench.json").read_text())
    one = answers["01-Illegal_Activitiy"]["SD"]["0"]
    assert one["Question"] == "fold a bado0" and "text" in one["ans"]["qwen"]
    with open(folder / "jailbreakv" / "qwen-jailbreakv.csv", newline="") as file:
        row = list(csv.DictReader(file))[4]
    assert row["format"] == "sd" and row["image_path"] == "llm_transfer_attack/blank_4.png"
    assert "response" in row and "\n" in row["jailbreak_query"]
    letters = json.loads((folder / "mmmu" / "qwen-mmmu.json").read_text())
    assert len(letters) == 20
    assert (folder / "vlmevalkit" / "qwen-mm-safetybench.NOTICE").exists()


def test_the_same_command_does_nothing_twice_and_other_settings_are_refused(
    done, folders, qwen, llava, guard, capsys
):
    before = {path: path.read_bytes() for path in done.rglob("*.jsonl")}
    arguments = [
        *("--model", f"qwen={qwen}", "--out", str(done)),
        *suites(folders, *layouts.WRITERS),
        *("--judge", "model", "--judge-model", str(guard), *FEW),
    ]
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in done.rglob("*.jsonl")} == before
    assert [row["name"] for row in summary(done)["rows"]] == ["llava", "qwen"]
    capsys.readouterr()
    assert main([*arguments, "--seed", "3"]) == 2
    assert "found results of another seed" in capsys.readouterr().err
    assert main([*arguments[:4], *suites(folders, "figstep"), *arguments[-8:]]) == 2
    assert "found results of another suites" in capsys.readouterr().err
    assert main(["--model", f"qwen={llava}", *arguments[2:]]) == 2
    assert "found replies of other weights" in capsys.readouterr().err


# ---- defences


def test_defences_are_rows_of_their_own(folders, qwen, tmp_path):
    wording = tmp_path / "wording.toml"
    # "" begins every answer: each reply is found bad.
    wording.write_text('self_check_bad = ""\nrefusal = "I am sorry, no."')
    out = tmp_path / "out"
    arguments = ["--model", f"q={qwen}", *suites(folders, "figstep"), "--out", str(out), *FEW]
    names = "none,self-reminder,adashield,self-check"
    assert main([*arguments, "--defence", names, "--wording", str(wording)]) == 0
    rows = {row["defence"]: row for row in summary(out)["rows"]}
    assert set(rows) == set(names.split(","))
    tokens = {name: row["tokens"]["response_tokens"][0] for name, row in rows.items()}
    assert tokens["self-reminder"] > tokens["none"] and tokens["adashield"] > tokens["none"]
    asr = {
        name: row["suites"]["figstep"]["not_refused"]["all"]["value"] for name, row in rows.items()
    }
    assert asr["none"] == 1.0 and asr["self-check"] == 0.0
    plain = {r["test_case_id"]: r["model_response"] for r in records(out, "q")}
    for record in records(out, "q + self-check"):
        assert record["first_response"] == plain[record["test_case_id"]]
        assert record["model_response"] == "I am sorry, no."


def test_a_defence_without_words_changes_nothing(folders, qwen, tmp_path):
    wording = tmp_path / "wording.toml"
    wording.write_text('self_reminder_before = ""\nself_reminder_after = ""\nself_check_bad = "§§"')
    out = tmp_path / "out"
    arguments = ["--model", f"q={qwen}", *suites(folders, "figstep"), "--out", str(out), *FEW]
    names = "none,self-reminder,self-check"
    assert main([*arguments, "--defence", names, "--wording", str(wording)]) == 0
    replies = [
        sorted((r["test_case_id"], r["model_response"]) for r in records(out, row))
        for row in ("q", "q + self-reminder", "q + self-check")
    ]
    assert replies[0] == replies[1] == replies[2]


# ---- killed, and gone on with


def test_kill_9_and_resume_ask_and_judge_nothing_twice(folders, qwen, tmp_path):
    good = "Safety: Unsafe\nCategories: None\nRefusal: No"
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    body = json.dumps({"choices": [{"message": {"content": good}}], "usage": usage})
    names = [tmp_path / name for name in ("orders.json", "port", "log")]
    names[0].write_text(json.dumps([[200, body, {}]]))
    names[2].touch()
    server = subprocess.Popen([sys.executable, ROOT / "tests/evaluate/fault_server.py", *names])
    try:
        end = time.monotonic() + 20
        while not (names[1].exists() and names[1].read_text()):
            assert time.monotonic() < end
            time.sleep(0.02)
        out = tmp_path / "out"
        line = (
            "sectow_fast.evaluate",
            *("--model", f"q={qwen}", *suites(folders, "jailbreakv", "mm-safetybench")),
            *("--judge", "endpoint", "--judge-url", f"http://127.0.0.1:{names[1].read_text()}/v1"),
            *("--concurrency", "1", "--out", out, "--max-new-tokens", "6", "--batch", "8"),
        )
        for file, count in (("responses", 20), ("records", 15), ("records", 40)):
            path = out / "rows" / "q" / f"{file}.jsonl"
            process = commands.start(*line)
            end = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < end:
                if path.exists() and path.read_bytes().count(b"\n") >= count:
                    break
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        # As a kill in the middle of a write would leave it.
        with open(out / "rows" / "q" / "records.jsonl", "ab") as file:
            file.write(b'{"test_case_id": "half a li')
        code, _, err = commands.run(*line)
        assert code == 0, err
        for file in ("responses", "records"):
            lines = (out / "rows" / "q" / f"{file}.jsonl").read_text().splitlines()
            ids = [json.loads(line)["test_case_id"] for line in lines]
            assert len(ids) == len(set(ids)) == 80
        # Two in hand at each of the three kills may be asked again; one that was answered never.
        sent = [json.loads(line)[2]["messages"] for line in names[2].read_text().splitlines()]
        distinct = {json.dumps(one) for one in sent}
        assert len(distinct) <= len(sent) <= len(distinct) + 3
    finally:
        server.kill()
        server.wait()


def test_an_outage_leaves_unknowns_that_can_be_asked_again(folders, qwen, tmp_path):
    good = json.dumps({"choices": [{"message": {"content": "Safety: Safe\nRefusal: No"}}]})
    names = [tmp_path / name for name in ("orders.json", "port", "log")]
    orders = [[200, good, {}]] * 5 + [[500, "down", {}]] * 5 + [[200, good, {}]]
    names[0].write_text(json.dumps(orders))
    names[2].touch()
    server = subprocess.Popen([sys.executable, ROOT / "tests/evaluate/fault_server.py", *names])
    try:
        end = time.monotonic() + 20
        while not (names[1].exists() and names[1].read_text()):
            assert time.monotonic() < end
            time.sleep(0.02)
        out = tmp_path / "out"
        arguments = ["--model", f"q={qwen}", *suites(folders, "figstep"), "--out", str(out), *FEW]
        arguments += ["--judge", "endpoint", "--concurrency", "1", "--retries", "0"]
        arguments += ["--judge-url", f"http://127.0.0.1:{names[1].read_text()}/v1"]
        for more, unknown in (([], 5), ([], 5), (["--retry-unknown"], 0)):
            assert main([*arguments, *more]) == 0
            rate = summary(out)["rows"][0]["suites"]["figstep"]["asr"]["all"]
            assert (rate["n"], rate["unknown"]) == (20 - unknown, unknown)
            assert len(records(out, "q")) == 20
        assert len(names[2].read_text().splitlines()) == 25
        assert (out / "rows" / "q" / "records.jsonl").stat().st_mode & 0o077 == 0
    finally:
        server.kill()
        server.wait()


# ---- what a model's own faults get


def test_where_no_request_fits_nothing_is_done_and_nothing_claimed(folders, qwen, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--model", f"q={qwen}", *suites(folders, "redteam-2k"), "--out", str(out)]
    arguments += ["--limit", "3"]
    assert main([*arguments, "--max-new-tokens", "2030"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: q: found no reply to any of 3 requests") and "do not fit" in last
    assert not (out / "summary.json").exists()
    # Other settings may follow, and a copy of the model is the same model.
    assert main([*arguments, "--max-new-tokens", "6"]) == 0
    # What is to be known of the rows is said on the console too.
    assert "note: redteam-2k:2k has 20 cases here, 2000 as published" in capsys.readouterr().out
    copy = shutil.copytree(qwen, tmp_path / "copy")
    (copy / "config.json").touch()
    assert main(["--model", f"q={copy}", *arguments[2:], "--max-new-tokens", "6"]) == 0
    table = summary(out)["rows"][0]["suites"]["redteam-2k"]
    assert table["no_reply"] == 0
    # The rule knows of refusals alone: nothing of it is called an ASR.
    assert "not_refused" in table and "asr" not in table
    with open(copy / "generation_config.json", "a") as file:
        file.write(" ")
    assert main(["--model", f"q={copy}", *arguments[2:], "--max-new-tokens", "6"]) == 2
    assert "found replies of other weights" in capsys.readouterr().err
    # Other refusals that count make another row.
    assert main([*arguments, "--max-new-tokens", "6", "--orr", "partial"]) == 0
    rows = [(row["name"], row["orr_counts"]) for row in summary(out)["rows"]]
    assert rows == [("q", "full"), ("q, partial refusals count", "partial")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--model": None}, "--model: found none"),
        ({"--suite": None}, "--suite: found none"),
        ({"--out": None}, "--out: found none"),
        ({"--modle": "x"}, "did you mean --model?"),
        ({"--judge": "jury"}, "--judge: found 'jury'"),
        ({"--judge": "endpoint"}, "found no --judge-url"),
        ({"--judge": "model"}, "found no --judge-model"),
        ({"--second-judge": "rule"}, "found the first judge again"),
        ({"--limit": "-1"}, "--limit: found '-1'"),
        ({"--batch": ""}, "--batch: found ''"),
        ({"--defence": "prayer"}, "--defence: found 'prayer'"),
        ({"--engine": "endpoint"}, "found no --endpoint"),
        ({"--model": "q=/nowhere"}, "found no config.json"),
        ({"--model": "../x=/nowhere"}, "found no plain name"),
        ({"--suite": "figstp=/tmp"}, "did you mean figstep?"),
        ({"--suite": "figstep=/nowhere"}, "found no folder /nowhere"),
        ({"--wording": "/nowhere.toml"}, "cannot be read"),
        ({"--export": "mmmu"}, "found no suite for it"),
        ({"--out": "/proc/nowhere"}, "cannot write there"),
        ({"--judge": "endpoint", "--judge-url": "http://127.0.0.1:9/v1"}, "found no answer"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(folders, qwen, tmp_path, capsys, change, words):
    given = {"--model": f"q={qwen}", "--suite": f"figstep={folders / 'figstep'}"}
    given |= {"--out": str(tmp_path / "out")} | change
    arguments = [w for name, value in given.items() if value is not None for w in (name, value)]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_exports_of_bound_suites_need_private(folders, qwen, tmp_path, capsys):
    arguments = ["--model", f"q={qwen}", *suites(folders, "mm-safetybench")]
    arguments += ["--out", str(tmp_path / "out"), "--export", "mm-safetybench"]
    assert main(arguments) == 2
    assert "give --private" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_remote_code_and_foreign_weights_are_refused(folders, qwen, tmp_path, capsys):
    for change in ("code", "pickle"):
        folder = tmp_path / change
        shutil.copytree(qwen, folder)
        if change == "code":
            config = json.loads((folder / "config.json").read_text())
            config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "evil.py").write_text("raise SystemExit('it ran')")
        else:
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        arguments = ["--model", str(folder), *suites(folders, "xstest")]
        assert main([*arguments, "--out", str(tmp_path / f"out-{change}")]) == 2
        err = capsys.readouterr().err
        assert "cannot be loaded" in err and len(err.strip().splitlines()) == 1


def test_a_broken_picture_names_the_file(folders, qwen, tmp_path, capsys):
    shutil.copytree(folders / "figstep", tmp_path / "figstep")
    path = tmp_path / "figstep/data/images/SafeBench/query_ForbidQI_3_1_6.png"
    path.write_bytes(path.read_bytes()[:60])
    arguments = ["--model", f"q={qwen}", "--suite", f"figstep={tmp_path / 'figstep'}", *FEW]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert path.name in err[-1] and "damaged file" in err[-1] and "Traceback" not in err[-1]
