"""The tool itself: which mutants it makes, and that it calls none killed which no test noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import drawn, mutants_of

HERE = Path(__file__).parent
SOURCE = """\
from contextlib import contextmanager

LIMIT = 3

def small(x):
    return x < LIMIT

def positive(x, least=0):
    return max(x, least)

def unseen(x):
    return x + 1

class Box:
    size = 2

    @property
    def double(self):
        return self.size * 2

    @contextmanager
    def more(self):
        self.size += 1
        yield self.size
"""
TESTS = """\
import pytest
from toy import Box, positive, small

@pytest.fixture(scope="session")
def box():
    return Box()

def test_small():
    assert small(2) and not small(3)

def test_positive():
    assert positive(5) == 5

def test_double(box):
    assert box.double == 4

def test_more():
    with Box().more() as size:
        assert size == 3
"""
RUN = """\
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from room import run_room
from rooms import Room
room = Room(files=("toy.py",), tests=("test_toy.py",), root=Path(sys.argv[2]))
found = run_room("toy", room, at_once=2, folder=sys.argv[2] + "/scratch")
Path(sys.argv[2], "found.json").write_text(json.dumps(found["mutants"]))
"""


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("x = a < b", {"x = None", "x = a <= b"}),
        ("def f(a: int = 1) -> 'x': return 'y'", {"def f(a: int = 2) -> 'x': return 'y'"}),
        ("raise ValueError(f'bad {a + 1}')", {"raise ValueError(f'bad {a - 1}')"}),
        ("x(zip(a, b, strict=True))", {"x(zip(None, b, strict=True))"}),
        ("import a\n__all__ = ['b']\nif TYPE_CHECKING:\n    x = 1", set()),
        ("@f(1)\ndef g():\n    '''Doc'''", set()),
        ("len(a + 1)", set()),
        ("raise Error", set()),
        ("Kind = Literal['a', 'b']", set()),
    ],
)
def test_what_is_changed_and_what_is_left_alone(tmp_path, text, made):
    path = tmp_path / "x.py"
    path.write_text(text + "\n")
    found = {mutant.source.rstrip("\n") for mutant in mutants_of(path)}
    assert made <= found and bool(made) == bool(found)
    assert not any("XXbad" in source or "strict=False" in source for source in found)
    assert all("strict=True" in source for source in found if "zip(" in source)


def test_a_sample_is_drawn_by_the_rooms_name_and_from_all_mutants(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("".join(f"a{i} = {i} + 1\n" for i in range(20)))
    every = list(mutants_of(path))
    some = drawn(every, 7, key="game")
    assert len(some) == 7 and some == drawn(every, 7, key="game") != drawn(every, 7, key="tug")
    lines = [one.line for one in some]
    assert lines == sorted(lines) and lines[-1] > 7
    assert drawn(every, None, key="game") == drawn(every, 10_000, key="game") == every


def test_a_mutant_is_killed_by_a_test_that_fails_and_by_nothing_else(tmp_path):
    (tmp_path / "toy.py").write_text(SOURCE)
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "scratch").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(HERE), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = json.loads((tmp_path / "found.json").read_text())
    found = {row["diff"].splitlines()[-1].strip("+ "): row for row in rows}
    wanted = {
        "LIMIT = 4": "killed",
        "LIMIT = None": "killed",
        "return x <= LIMIT": "killed",
        "return max(x, None)": "killed",
        "def positive(x, least=1):": "survived",
        "return x - 1": "uncovered",
        "return x + 2": "uncovered",
        "size = 3": "killed",
        "return self.size / 2": "killed",
        "return self.size * 3": "killed",
        "self.size -= 1": "killed",
        "self.size = 1": "killed",
    }
    assert {name: found[name]["status"] for name in wanted} == wanted
    assert found["return self.size * 3"]["by"].startswith("test_toy.py::test_double: ")
    assert found["return self.size * 3"]["line"] == 19
    assert found["return self.size * 3"]["function"] == "Box.double"
