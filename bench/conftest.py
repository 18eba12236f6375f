"""`--record DIR` keeps the rows of a measurement in DIR/NAME.json; `make bench` passes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import record

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage

ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, metavar="DIR", help="write the rows to this folder")


@pytest.fixture(scope="session")
def stage() -> SandboxStage:
    return SandboxStage(Config())


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Where a side-by-side measurement leaves its row."""
    return request.config.stash.setdefault(ROWS, [])


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[..., None]:
    """keep(name, rows, **about): write them where --record says, nowhere without it."""
    folder = request.config.getoption("--record")

    def write(name: str, rows: list[dict[str, Any]], **about: Any) -> None:
        if folder is not None:
            print(f"written to {record.write(folder, name, rows, **about)}")

    return write


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("one GRPO step, ours and TRL's in turn: medians")
    for line in record.table(rows):
        terminalreporter.line(line)
    folder = config.getoption("--record")
    # Rows of a run that failed are not kept: its sides may not have done the same work.
    if folder is not None and exitstatus == pytest.ExitCode.OK:
        what = "seconds a GRPO step (rollout and update), ours and TRL's in turn; bench/work.py"
        written = record.write(folder, "cpu-step", rows, what=what, command="make bench")
        terminalreporter.line(f"written to {written}")
