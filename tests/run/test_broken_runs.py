"""A stopped run that was changed, a full or read-only disk, Ctrl-C while importing: one line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
from commands import ROOT
from test_run import run, start, wait_for

from sectow_fast.config import Config
from sectow_fast.match import Match

SMALL = [
    *("--rounds", "0", "--threads", "1", "--coldstart.caption_steps", "900"),
    *("--coldstart.defender_steps", "1", "--coldstart.attacker_steps", "0"),
    *("--coldstart.batch", "2", "--model.hidden_size", "16", "--model.layers", "1"),
    *("--sandbox.suite_size", "2", "--sandbox.picture_variants", "1"),
    *("--evaluate.attacker_cases", "2", "--evaluate.leak_attacks", "1", "--plain"),
]


def one_line(err, *words):
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err, err


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run that was stopped by Ctrl-C in its first phase."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    process = start(*SMALL, "--out", folder)
    wait_for(folder, 1, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    return folder


@pytest.fixture
def stopped(source, tmp_path):
    shutil.copytree(source, tmp_path / "run")
    return tmp_path / "run"


def state(folder):
    return next(folder.glob("checkpoints/checkpoint-*/state.json"))


def set_state(folder, **fields):
    table = json.loads(state(folder).read_text()) | fields
    state(folder).write_text(json.dumps(table))


def set_config(folder, old, new):
    path = folder / "config.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_changed_setting_is_named_refused_and_may_be_accepted(stopped):
    set_config(stopped, "caption_steps = 900", "caption_steps = 1")
    code, _, err = run("--resume", stopped, "--plain")
    assert code == 2
    one_line(err, "setting coldstart.caption_steps: found 1, the checkpoint is of 900", "--accept")
    stray = stopped / "checkpoints" / "checkpoint-old"
    stray.mkdir()
    code, out, err = run("--resume", stopped, "--plain", "--accept-changes")
    assert code == 0, err
    assert "accepted: setting coldstart.caption_steps" in " ".join(out.split())
    assert stray.is_dir()
    # The last checkpoint is tied to what was accepted.
    assert json.loads(state(stopped).read_text())["tie"]["setting coldstart.caption_steps"] == "1"


@pytest.mark.parametrize("fields", [{"elapsed": None}, {"pool": [3]}])
def test_a_state_that_no_run_wrote_is_one_line_even_where_it_is_accepted(stopped, fields):
    set_state(stopped, **fields)
    code, _, err = run("--resume", stopped, "--plain", "--accept-changes")
    assert code == 2
    one_line(err, "state.json" if "pool" not in fields else "found no attack")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cursor": "x"}, "cursor: found 'x', expected a number from 0"),
        ({"cursor": 99}, "cursor: found 99, expected at most 4"),
        ({"step": -1}, "step: found -1"),
        ({"skipped": True}, "skipped: found True"),
    ],
)
def test_a_match_takes_up_no_state_that_its_schedule_has_not(fields, words):
    match = Match(config=Config(rounds=0), stage=None, cast=None)
    with pytest.raises(ValueError, match=words):
        match.restore(match.state() | fields)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 KiB, where this machine lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_run_in_one_line(small_disk):
    out = small_disk / "run"
    code, _, err = run(*SMALL, "--save_every", "100000", "--out", out)
    assert code == 2
    one_line(err, f"{out}: cannot be written (No space left on device)", f"--resume {out}")


def test_a_read_only_disk_is_one_line(small_disk):
    (small_disk / "run").mkdir()
    (small_disk / "run" / "config.toml").write_text("")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for words in (["--resume", small_disk / "run"], [*SMALL, "--out", small_disk / "new"]):
        code, _, err = run(*words)
        assert code == 2
        one_line(err, "cannot write there (Read-only file system)")


@pytest.mark.parametrize("module", ["sectow_fast.train", "sectow_fast.evaluate"])
def test_ctrl_c_while_importing_is_one_line(module, tmp_path):
    arguments = ["--out", str(tmp_path / "run")]
    if module == "sectow_fast.evaluate":
        arguments += ["--model", "m", "--suite", "s=f"]
    # A process of its own: a fork of the tests' server has imported everything.
    code = (
        "import os, runpy, signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pydantic': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 130
    one_line(done.stderr, "stopped; ")
    assert not (tmp_path / "run").exists()


def test_models_of_somebody_else_are_not_written_over(tmp_path):
    (tmp_path / "defender").mkdir()
    code, _, err = run(*SMALL, "--out", tmp_path)
    assert code == 2
    one_line(err, "found defender in it")
