from __future__ import annotations

import pytest

from sectow_fast.plugins import load_plugins
from sectow_fast.registry import Registry
from sectow_fast.types import UserError


def test_a_taken_name_is_refused():
    colours = Registry("colour")
    colours.register("red", 1)
    with pytest.raises(UserError, match=r"colour 'red': found the name taken"):
        colours.register("red", 2)
    assert colours.get("red") == 1 and "red" in colours and colours.names() == ["red"]


def test_an_unknown_name_is_refused_with_the_nearest_one_and_its_setting():
    colours = Registry("colour")
    colours.register("red", 1)
    colours.register("green", 2)
    with pytest.raises(UserError, match=r"^paint: found 'gren', .*red, green; did you mean green"):
        colours.get("gren", setting="paint")
    with pytest.raises(UserError, match=r"^colour: found 'xyz', expected one of red, green$"):
        colours.get("xyz")


def test_what_is_registered_temporarily_is_forgotten():
    colours = Registry("colour")
    colours.register("red", 1)
    with pytest.raises(ZeroDivisionError), colours.temporarily():
        colours.register("green", 2)
        assert colours.names() == ["red", "green"]
        raise ZeroDivisionError
    assert colours.names() == ["red"]
    colours.register("green", 3)


def test_a_file_is_loaded_once_however_it_is_spelt(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("import os\nos.environ['LOADED'] = os.environ.get('LOADED', '') + 'x'\n")
    monkeypatch.delenv("LOADED", raising=False)
    monkeypatch.chdir(tmp_path)
    load_plugins(["mine.py", str(path)])
    import os

    assert os.environ["LOADED"] == "x"


def test_a_module_is_loaded_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "their_module.py").write_text("SEEN = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["their_module"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "found no such file"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("x =", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(tmp_path, text, words):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    for _ in range(2):  # a failed import leaves nothing behind that looks loaded
        with pytest.raises(UserError, match=words) as caught:
            load_plugins([str(path)])
        assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match="plugins no_such_module: cannot be imported"):
        load_plugins(["no_such_module"])
