"""A suite from a file outside the package."""

from __future__ import annotations

import pytest

from sectow_fast.data.suites import SuiteInfo, SuiteSpec, open_suite, register_suite, suites
from sectow_fast.data.suites.registry import SUITES
from sectow_fast.plugins import load_plugins
from sectow_fast.types import UserError

ROWS = "id,request,safe,topic\n1,fold a bado,no,folding\n2,paint a miku,yes,painting\n"


@pytest.fixture
def plugin(outside):
    with SUITES.temporarily():
        path = outside("suite")
        load_plugins([str(path)])
        yield path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "requests.csv").write_text(ROWS)
    return tmp_path / "data"


def test_it_opens_by_its_name(plugin, folder):
    suite = open_suite(SuiteSpec.parse(f"mine={folder}"))
    unsafe, harmless = suite.checked()
    assert (unsafe.label, unsafe.goal, unsafe.category) == ("unsafe", "fold a bado", "folding")
    assert (harmless.label, harmless.text) == ("harmless", "paint a miku")
    assert "mine" in suites() and "figstep" in suites()


def test_its_mistakes_are_told_with_file_and_row(plugin, folder):
    (folder / "requests.csv").write_text(ROWS.replace("yes", "perhaps"))
    suite = open_suite(SuiteSpec.parse(f"mine={folder}"))
    with pytest.raises(UserError, match=r"requests.csv row 2: found safe 'perhaps'"):
        suite.checked()


def test_without_the_plugin_it_is_unknown(folder):
    with pytest.raises(UserError, match=r"suite: found 'mine', expected one of"):
        open_suite(SuiteSpec.parse(f"mine={folder}"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("figstep", "found the name taken"), ("my:suite", "expected one that --suite"), ("", "empty")],
)
def test_a_name_that_is_taken_or_cannot_be_given_is_refused(name, message):
    class Other:
        info = SuiteInfo(name=name, title="", licence="", splits=("test",), layout="")

    with SUITES.temporarily(), pytest.raises(UserError, match=message):
        register_suite(Other())
