"""Which checkpoint goes on, what it must still hold, and what is never removed."""

from __future__ import annotations

import json
import os

import pytest
import torch

from sectow_fast.hashes import Hashes
from sectow_fast.learn.checkpoint import Checkpoints
from sectow_fast.ties import KEY, continued
from sectow_fast.types import UserError

TIE = {"setting seed": "0", "the chat template": "abc", "the code of sectow_fast": "123"}


def save(folder, step=0, beside=()):
    checkpoints = Checkpoints(folder)
    tensors = {"m": {"x": torch.ones(64) * step}}
    checkpoints.save(tensors=tensors, state={"step": step, KEY: TIE}, beside=beside)
    checkpoints.wait()
    return folder / (folder / "latest").read_text()


def test_only_our_own_checkpoints_are_removed(tmp_path):
    first = save(tmp_path)
    for name in ("checkpoint-old", "checkpoint-000007", ".part-mine", "checkpoint-000001.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("mine")
    (tmp_path / "checkpoint-000002").write_text("a file")
    (tmp_path / "checkpoint-000005").symlink_to(first)
    copy = tmp_path / "checkpoint-000004"  # a person's, under a name of ours
    copy.mkdir()
    for file in first.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    latest = save(tmp_path, 1)
    assert latest.name == "checkpoint-000008"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".part-mine",
        "checkpoint-000001.bak",
        "checkpoint-000002",
        "checkpoint-000004",
        "checkpoint-000005",
        "checkpoint-000007",
        "checkpoint-000008",
        "checkpoint-old",
        "latest",
    ]


def test_an_unchanged_checkpoint_continues_in_silence(tmp_path):
    save(tmp_path)
    assert continued(tmp_path, TIE, accept=False) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda one: flip(next(one.glob("*.safetensors"))), "safetensors: found other bytes"),
        (lambda one: next(one.glob("*.safetensors")).unlink(), "safetensors: found no such file"),
        (lambda one: (one / "state.json").write_text(json.dumps({KEY: TIE})), "state.json: found"),
        (lambda one: (one.parents[1] / "yardstick").unlink(), "yardstick: found no such file"),
        (lambda one: flip(one.parents[1] / "yardstick"), "yardstick: found other bytes"),
    ],
)
def test_other_bytes_are_refused_by_the_file_and_may_be_accepted(tmp_path, damage, words):
    (tmp_path / "yardstick").write_text("of round 0")
    damage(save(tmp_path / "c", beside=[tmp_path / "yardstick"]))
    with pytest.raises(UserError, match=rf"{words}.*--accept-changes") as caught:
        continued(tmp_path / "c", TIE, accept=False)
    assert "\n" not in str(caught.value)
    (line,) = continued(tmp_path / "c", TIE, accept=True)
    assert words in line


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (TIE | {"setting seed": "1"}, "setting seed: found 1, the checkpoint is of 0"),
        (TIE | {"the data of test": "9 rows"}, "the data of test: found 9 rows, .* of nothing"),
        ({"setting seed": "0"}, "the chat template: found nothing, the checkpoint is of abc"),
        ({name: "x" for name in [*TIE, "more"]}, "and 1 more; expected all as it was"),
    ],
)
def test_a_difference_is_named_and_may_be_accepted(tmp_path, now, words):
    save(tmp_path)
    with pytest.raises(UserError, match=rf"{words}.*--accept-changes"):
        continued(tmp_path, now, accept=False)
    assert continued(tmp_path, now, accept=True)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("state.json", b"", "state.json: found no readable checkpoint"),
        ("state.json", b"[]", "state.json: found no readable checkpoint .a list"),
        ("state.json", b"\xff", "state.json: found no readable checkpoint"),
        ("checksums.json", b"[]", "checksums.json: found no readable checksums"),
        ("../latest", b"", "latest: found '', expected .*there: checkpoint-000001"),
        ("../latest", b"checkpoint-999999", "latest: found 'checkpoint-999999'"),
        ("../latest", b"../../etc", "latest: found '../../etc'"),
        ("../latest", b"\xff\xfe", "latest: found "),
    ],
)
def test_a_damaged_file_is_one_line_even_where_changes_are_accepted(tmp_path, name, data, words):
    (save(tmp_path) / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        continued(tmp_path, TIE, accept=True)
    assert "\n" not in str(caught.value)


def test_a_file_is_read_once_for_each_size_and_time(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    hashes = Hashes()
    first = hashes.of([file])[file]
    found = file.stat()
    file.write_text("two")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert Hashes(hashes.as_dict()).of([file])[file] == first  # it was not read
    os.utime(file, ns=(0, 0))
    assert hashes.of([file])[file] != first
    assert Hashes({str(file): ["odd"]}).of([file])[file] == hashes.of([file])[file]
