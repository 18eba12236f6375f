"""Mutants of what runs at import: a fork in which nothing of the package is imported yet."""

from __future__ import annotations

import importlib.machinery
import os
from collections.abc import Callable, Mapping

import pytest
from mutants import Mutant
from rooms import Room


class _First:
    """A pytest plugin that runs the cheapest tests first and notes the first failure."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.failed = ""
        self.costs = costs

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.costs.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid}: fails at import"


def options(folder: str) -> list[str]:
    """pytest's flags; each process has its own temporary files, which a test's end removes."""
    kept = ["-o", "tmp_path_retention_policy=none", f"--basetemp={folder}/{os.getpid()}"]
    return ["-q", "-s", "-p", "no:cacheprovider", *kept]


def import_job(
    mutant: Mutant | None, room: Room, costs: Mapping[str, float], folder: str
) -> Callable[[], str]:
    """What a fork does: import with the mutant in place (None: as it is), run the room's tests."""

    def work() -> str:
        if mutant is not None:
            get_code = importlib.machinery.SourceFileLoader.get_code

            def changed(loader, name):
                if loader.path == str(mutant.path):
                    return compile(mutant.source, loader.path, "exec")
                return get_code(loader, name)

            importlib.machinery.SourceFileLoader.get_code = changed
        first = _First(costs)
        tests = [f"{room.root}/{one}" for one in room.tests]
        root = f"--rootdir={room.root}"
        code = pytest.main([*options(folder), "-x", root, *tests], plugins=[first])
        if code not in (0, 1, 2):
            raise RuntimeError(f"pytest ended with code {code}")
        return first.failed or ("pytest failed" if code else "")

    return work
