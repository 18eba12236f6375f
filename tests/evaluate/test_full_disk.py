"""A disk that fills up in the middle: one line, exit code 1, and what was written is used again."""

from __future__ import annotations

import resource
import subprocess

import pytest
from whole_commands import FEW, suites, summary

from sectow_fast.evaluate import main
from sectow_fast.judges.rule import RuleJudge
from sectow_fast.serving.cache import AnswerCache


def mount(folder, size, *more):
    command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *more)), "tmpfs", folder]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def short_of_room(tmp_path):
    """(a folder with room for a few rows, what gives it more). A disk of its own where this machine
    lets us make one, otherwise a limit of this process."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if mount(folder, "16k"):
        yield folder, lambda: mount(folder, "1m", "remount")
        subprocess.run(["umount", "--lazy", folder], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(toys, qwen, short_of_room, capsys):
    folder, give_more = short_of_room
    out = folder / "out"
    arguments = ["--model", f"q={qwen}", *suites(toys, "figstep"), "--out", str(out), *FEW]
    assert main(arguments) == 1
    said = capsys.readouterr()
    (line,) = [one for one in said.err.splitlines() if "error" in one]
    assert line.startswith(f"error: {out}: cannot be written (") and line.endswith("again")
    assert "Traceback" not in said.err and "done" not in said.out
    kept = (out / "rows" / "q" / "responses.jsonl").read_bytes().splitlines(keepends=True)
    kept = [one for one in kept if one.endswith(b"\n")]
    assert 0 < len(kept) < 20
    give_more()
    assert main(arguments) == 0
    rows = (out / "rows" / "q" / "responses.jsonl").read_bytes().splitlines(keepends=True)
    assert rows[: len(kept)] == kept and len(rows) == 20
    assert summary(out)["rows"][0]["suites"]["figstep"]["no_reply"] == 0


def test_an_error_of_something_else_than_the_disk_is_no_such_line(
    toys, qwen, tmp_path, monkeypatch
):
    def broken(self, requests):
        raise ConnectionResetError("odd")

    monkeypatch.setattr(RuleJudge, "judge", broken)
    arguments = ["--model", f"q={qwen}", *suites(toys, "figstep"), "--out", str(tmp_path / "out")]
    with pytest.raises(ConnectionResetError):
        main([*arguments, *FEW, "--limit", "1"])


def test_a_cache_of_answers_says_it_as_a_disk_does(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    cache.put("one", "short", 1, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"answers\.sqlite"):
            cache.put("two", "long" * 20_000, 1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert cache.get("one") == ("short", 1, 1) and cache.get("two") is None
    cache.close()
