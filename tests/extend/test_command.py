"""`--plugins` on both commands: a file outside the package is loaded before settings are read."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import commands
import pytest

from sectow_fast.run_folder import RunFolder
from sectow_fast.settings import load_config, read_command
from sectow_fast.types import UserError

GOOD = """
from sectow_fast.registry import Registry

COLOURS = Registry("colour")
COLOURS.register("red", 1)
print("registered:", *COLOURS.names())
"""
TAKEN = GOOD + 'COLOURS.register("red", 2)\n'


def ran(command: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    return commands.run(f"sectow_fast.{command}", *arguments, cwd=folder)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_plugin_is_loaded_before_help_is_written(good, command):
    code, out, err = ran(command, good.parent, "--plugins", "mine.py", "--help")
    assert code == 0, err
    assert out.startswith("registered: red\nusage: ") and "--plugins = " in out


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "found no such file"),
        ("1 / 0", "ZeroDivisionError"),
        (TAKEN, "colour 'red': found the name taken"),
    ],
)
def test_a_bad_plugin_is_one_line_and_writes_nothing(tmp_path, command, text, words):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    # A later mistake is not reached: the plugin might be what makes the name known.
    more = ["--attack.steps", "x"] if command == "train" else ["--judge", "jury"]
    code, _, err = ran(command, tmp_path, "--plugins", "bad.py", *more, "--out", "run")
    assert code == 2 and words in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_run_keeps_its_plugins_and_loads_them_when_it_is_resumed_elsewhere(
    good, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _, config = read_command(["--plugins", "mine.py", "--out", "run"])
    RunFolder.create(tmp_path / "run", config)
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert kept["plugins"] == [str(good)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    good.write_text("raise ValueError('read again')")
    code, _, err = ran("train", elsewhere, "--resume", "../run")
    assert code == 2 and f"plugins {good}: found an error" in err
    assert "read again" in err
    good.unlink()
    code, _, err = ran("train", elsewhere, "--resume", "../run")
    assert code == 2 and f"plugins {good}: found no such file" in err


def test_a_file_of_settings_names_plugins_and_a_flag_names_others(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"print('loaded {name}')")
    settings = tmp_path / "mine.toml"
    settings.write_text(f"plugins = ['{tmp_path}/one.py']\n")
    assert load_config(settings).plugins == (f"{tmp_path}/one.py",)
    assert capsys.readouterr().out == "loaded one\n"
    words = ["--config", str(settings), "--plugins", f"{tmp_path}/two.py,json"]
    _, config = read_command(words)
    assert config.plugins == (f"{tmp_path}/two.py", "json")
    assert capsys.readouterr().out == "loaded two\n"


def test_plugins_of_another_kind_are_refused(tmp_path):
    settings = tmp_path / "mine.toml"
    settings.write_text("plugins = 3\n")
    with pytest.raises(UserError, match=r"mine.toml: plugins: found 3, expected a list"):
        load_config(settings)


def test_settings_that_a_plugin_adds_are_known_once_it_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "slopes.py").write_text("KNOWN = {'attack.slope': 2.0}\n")
    monkeypatch.syspath_prepend(tmp_path)

    def extra_flags():
        return sys.modules["slopes"].KNOWN

    with pytest.raises(UserError, match=r"--attack.slop: found .* did you mean --attack.slope\?"):
        read_command(["--plugins", "slopes", "--attack.slop", "3"], extra_flags=extra_flags)
