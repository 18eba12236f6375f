"""A mistake of the command, a model or a picture is one line, and nothing is written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from whole_commands import FEW, suites

from sectow_fast.data.processor import load_model
from sectow_fast.evaluate import main
from sectow_fast.evaluation.identity import content_of
from sectow_fast.evaluation.out_folder import OutFolder
from sectow_fast.evaluation.records import JsonLines
from sectow_fast.evaluation.repliers import TransformersReplier
from sectow_fast.types import UserError


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
def test_a_mistake_is_one_line_and_writes_nothing(toys, qwen, tmp_path, capsys, change, words):
    given = {"--model": f"q={qwen}", "--suite": f"xstest={toys / 'xstest'}"}
    given |= {"--out": str(tmp_path / "out")} | change
    arguments = [w for name, value in given.items() if value is not None for w in (name, value)]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_exports_of_bound_suites_need_private(toys, qwen, tmp_path, capsys):
    arguments = ["--model", f"q={qwen}", *suites(toys, "mm-safetybench")]
    arguments += ["--out", str(tmp_path / "out"), "--export", "mm-safetybench"]
    assert main(arguments) == 2
    assert "give --private" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_remote_code_and_foreign_weights_are_refused(toys, qwen, tmp_path, capsys):
    for change in ("code", "pickle", "sizes"):
        folder = tmp_path / change
        shutil.copytree(qwen, folder)
        if change == "code":
            config = json.loads((folder / "config.json").read_text())
            config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "evil.py").write_text("raise SystemExit('it ran')")
        elif change == "sizes":
            config = json.loads((folder / "config.json").read_text())
            config["text_config"]["intermediate_size"] *= 2
            (folder / "config.json").write_text(json.dumps(config))
        else:
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        arguments = ["--model", str(folder), *suites(toys, "xstest")]
        assert main([*arguments, "--out", str(tmp_path / f"out-{change}")]) == 2
        err = capsys.readouterr().err
        assert "cannot be loaded" in err and len(err.strip().splitlines()) == 1


def test_a_model_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "config.json").symlink_to("/proc/self/mem")  # a file whose first byte is an error
    with pytest.raises(UserError, match=r"cannot be read \(Input/output error\)"):
        content_of(tmp_path)


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["{", "[]", DEEP, "\udcff"], ids=["cut", "list", "deep", "bytes"])
@pytest.mark.parametrize("name", ["asked.json", "summary.json", "rows/q/model.json"])
def test_a_file_of_results_that_was_changed_is_one_line(tmp_path, name, text):
    folder = OutFolder(tmp_path / "out")
    folder.claim({"seed": 0})
    folder.row("q", model="m", weights={"a": 1})
    (folder.path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"{name}: found .*, expected what an evaluation wrote"):
        folder.claim({"seed": 0})
        folder.row("q", model="m", weights={"a": 1})


def test_the_file_of_a_model_that_changed_is_named(tmp_path):
    folder = OutFolder(tmp_path / "out")
    path = folder.row("q", model="m", weights={"model.safetensors": "1", "chat.jinja": "2"})
    (path / "responses.jsonl").write_text('{"test_case_id": "a", "model_response": "b"}\n')
    with pytest.raises(UserError, match=r"another model than m is now \(chat.jinja differs\)"):
        folder.row("q", model="m", weights={"model.safetensors": "1", "chat.jinja": "3"})


@pytest.mark.parametrize("text", ["{}", '{"rows": 3}', '{"rows": [3]}'])
def test_a_summary_without_rows_is_one_line(tmp_path, text):
    folder = OutFolder(tmp_path / "out")
    (folder.path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary.json: found no field rows"):
        folder.claim({})


def test_records_that_were_changed_are_one_line(tmp_path):
    for text in ("[1]\n", "{}\n", f"{DEEP}\n", "no\n"):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"a.jsonl line 1: found no record"):
            JsonLines(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(UserError, match=r"b.jsonl: cannot be read \(Is a directory\)"):
        JsonLines(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"eos_token_id": "2"}', "found '2' as eos_token_id"),
        ('{"eos_token_id": [[2]]}', r"found \[\[2\]\] as eos_token_id"),
        ("{", "generation_config.json' is not a valid JSON file"),
    ],
)
def test_a_folder_that_names_no_end_as_it_should_is_one_line(qwen, tmp_path, text, words):
    """transformers passes over a file that it cannot read, and a reply would end elsewhere."""
    folder = tmp_path / "model"
    shutil.copytree(qwen, folder)
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=words):
        TransformersReplier(folder, batch=1, max_new_tokens=1, dtype="float32")


@pytest.mark.parametrize("auto", ["AutoModelForImageTextToText", "AutoModelForCausalLM"])
def test_memory_that_does_not_suffice_is_not_called_a_broken_folder(tmp_path, monkeypatch, auto):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(getattr(transformers, auto), "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_model(tmp_path, dtype="auto", auto=auto)


def test_a_cap_that_a_model_cannot_keep_names_the_commands_own_setting(
    toys, qwen, tmp_path, capsys
):
    arguments = ["--model", f"q={qwen}", *suites(toys, "xstest"), "--max-pixels", "9"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "--max-pixels 9: found" in err and "expected at most --max-pixels" in err
    assert "model.max_pixels" not in err


def test_a_broken_picture_names_the_file(toys, qwen, tmp_path, capsys):
    shutil.copytree(toys / "figstep", tmp_path / "figstep")
    path = tmp_path / "figstep/data/images/SafeBench/query_ForbidQI_3_1_6.png"
    path.write_bytes(path.read_bytes()[:60])
    arguments = ["--model", f"q={qwen}", "--suite", f"figstep={tmp_path / 'figstep'}", *FEW]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert path.name in err[-1] and "damaged file" in err[-1] and "Traceback" not in err[-1]
