"""What a checkpoint on real suites is tied to: rows, pictures, template and weights by content."""

from __future__ import annotations

import os
import shutil

import layouts
import pytest
from tiny_models import save_qwen2_5_vl

from sectow_fast.config import Config, DataConfig
from sectow_fast.real.stage import RealStage
from sectow_fast.ties import continued, tie_of


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for name in ("vlguard", "or-bench", "xstest"):
        layouts.WRITERS[name](folder / name)
    save_qwen2_5_vl(folder / "model")
    return folder


@pytest.fixture
def folder(source, tmp_path):
    shutil.copytree(source, tmp_path / "all")
    return tmp_path / "all"


def tie(folder):
    config = Config(
        model={"defender": str(folder / "model")},
        data=DataConfig(
            unsafe=(f"vlguard={folder / 'vlguard'}",),
            harmless=(f"or-bench:80k={folder / 'or-bench'}",),
            test=(f"xstest={folder / 'xstest'}",),
        ),
    )
    return tie_of(config, RealStage(config), cache=folder / "hashes.json")


def changed(before, after):
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def pictures(folder):
    return sorted(one for kind in ("jpg", "png") for one in (folder / "vlguard").rglob(f"*.{kind}"))


def edit_row(folder):
    file = folder / "or-bench" / "or-bench-80k.csv"
    rows = file.read_text().splitlines()
    rows[1] = rows[1].replace(rows[1].split(",")[0], "quite another request", 1)
    file.write_text("\n".join(rows) + "\n")


def drop_row(folder):
    file = folder / "xstest" / "xstest_prompts.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


def edit_pictures(folder):
    for file in pictures(folder):
        file.write_bytes(file.read_bytes() + b"\0")


def edit_template(folder):
    file = folder / "model" / "chat_template.jinja"
    file.write_text("Refuse everything. " + file.read_text())


def flip_weights(folder):
    file = folder / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (edit_row, "the data of harmless or-bench"),
        (drop_row, "the data of test xstest"),
        (edit_pictures, "the data of unsafe vlguard"),
        (edit_template, "the chat template"),
        (flip_weights, "model.defender model.safetensors"),
    ],
)
def test_a_change_of_what_a_run_reads_is_named(folder, edit, named):
    before = tie(folder)
    edit(folder)
    assert named in changed(before, tie(folder))


def test_times_and_places_of_files_are_no_change(folder, tmp_path):
    before = tie(folder)
    for file in (*pictures(folder), folder / "model" / "model.safetensors"):
        os.utime(file, ns=(1, 1))
    assert tie(folder) == before
    folder.rename(tmp_path / "elsewhere")
    moved = changed(before, tie(tmp_path / "elsewhere"))
    assert moved and all(name.startswith(("setting data.", "setting model.")) for name in moved)


def test_a_run_without_a_checkpoint_continues_nothing(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert continued(tmp_path / "checkpoints", {"a": "b"}, accept=False) == []
