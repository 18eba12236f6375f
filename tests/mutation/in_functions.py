"""Mutants in functions: the changed code is put in place in a fork of a process that is warm."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType

import pytest
from _pytest.runner import runtestprotocol
from forks import Result, in_forks
from mutants import Mutant

MINIMUM, SLOWER = 15.0, 10  # a mutant may take MINIMUM seconds of CPU, and SLOWER times its tests'


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one run of a test without mutants showed. lines: (file, line) pairs that it ran."""

    seconds: float
    lines: frozenset[tuple[str, int]]


class Warm:
    """A pytest plugin: in place of pytest's loop over tests, the loop over mutants."""

    def __init__(self, mutants: Sequence[Mutant], *, at_once: int, folder: str) -> None:
        self.mutants, self.at_once, self.folder = mutants, at_once, folder
        self.results: dict[int, Result] = {}
        self.seconds = 0.0
        self.late: list[int] = []  # mutants that must be in place before the import
        self.costs: dict[str, float] = {}  # seconds of a test, its session fixtures included
        self._shared: dict[str, float] = {}  # seconds of each session fixture

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[None]:
        begin = time.monotonic()
        yield
        if fixturedef.scope == "session":
            self._shared[fixturedef.argname] = time.monotonic() - begin

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = session.items
        files = {str(mutant.path) for mutant in self.mutants}
        seen = [_watch(item, files) for item in items]
        self.seconds = sum(one.seconds for one in seen)
        again = [_watch(item, files) for item in items] if self._shared else seen
        order = sorted(range(len(items)), key=lambda i: again[i].seconds)
        for item, one in zip(items, again, strict=True):
            shared = sum(self._shared.get(name, 0.0) for name in item.fixturenames)
            self.costs[item.nodeid] = one.seconds + shared
        gc.collect()
        gc.freeze()
        # No mutant, in a fork: what fails here would fail for every mutant.
        everything = [items[i] for i in order]
        whole = [(600.0, lambda: _first_failure(everything))]
        for _, result in in_forks(whole, at_once=1, folder=self.folder):
            if result.status != "survived":
                raise pytest.UsageError(f"the tests fail in a fork without any mutant: {result}")
        lives = {file: _live(file) for file in files}
        jobs, numbers = [], []
        for number, mutant in enumerate(self.mutants):
            if mutant.function is None:
                continue
            span = {(str(mutant.path), n) for n in range(mutant.first, mutant.last + 1)}
            chosen = [i for i in order if (seen[i].lines | again[i].lines) & span]
            if not chosen:
                self.results[number] = Result(status="uncovered")
                continue
            swaps = _swaps(mutant, lives[str(mutant.path)])
            if swaps is None:
                self.late.append(number)
                continue
            limit = MINIMUM + SLOWER * sum(again[i].seconds for i in chosen)
            jobs.append((limit, _job([items[i] for i in chosen], swaps)))
            numbers.append(number)
        for i, result in in_forks(jobs, at_once=self.at_once, folder=self.folder):
            self.results[numbers[i]] = result
        return True


def _watch(item: pytest.Item, files: set[str]) -> Seen:
    lines: set[tuple[str, int]] = set()

    def line(frame, event, _):
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame, event, _):
        return line(frame, event, None) if frame.f_code.co_filename in files else None

    threading.settrace(call)
    sys.settrace(call)
    begin = time.monotonic()
    try:
        failed = _first_failure([item])
    finally:
        sys.settrace(None)
        threading.settrace(None)
    if failed:
        raise pytest.UsageError(f"the tests fail without any mutant: {failed}")
    return Seen(seconds=time.monotonic() - begin, lines=frozenset(lines))


class _Session:
    """Stands for the next test: after each one all is torn down but the session's fixtures."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session

    def listchain(self) -> list[pytest.Session]:
        return [self.session]


def _first_failure(chosen: Sequence[pytest.Item]) -> str:
    """The first test that fails, with its error's message; "" where none does."""
    for item in chosen:
        for report in runtestprotocol(item, log=False, nextitem=_Session(item.session)):
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                return f"{item.nodeid}: {crash.message if crash else report.when}"
    return ""


def _live(file: str) -> dict[tuple[str, int], list[FunctionType]]:
    """(qualified name, first line) -> every live function of a file with that code."""
    found: dict[tuple[str, int], list[FunctionType]] = {}
    gc.unfreeze()
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename == file:
            key = (one.__code__.co_qualname, one.__code__.co_firstlineno)
            found.setdefault(key, []).append(one)
    gc.freeze()
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _codes(one)


def _swaps(
    mutant: Mutant, live: dict[tuple[str, int], list[FunctionType]]
) -> list[tuple[FunctionType, CodeType]] | None:
    """Each live function of the mutated one (itself, or made in it) and its new code.

    None where the new code cannot take the old one's place.
    """
    old = list(_codes(compile(mutant.path.read_text(), str(mutant.path), "exec")))
    new = list(_codes(compile(mutant.source, str(mutant.path), "exec")))
    swaps = []
    for code in old:
        name = code.co_qualname
        if name != mutant.function and not name.startswith(f"{mutant.function}."):
            continue
        same = [one for one in old if one.co_qualname == name]
        twins = [one for one in new if one.co_qualname == name]
        for function in live.get((name, code.co_firstlineno), ()):
            if len(same) != len(twins):
                return None
            twin = twins[same.index(code)]
            if twin.co_freevars != code.co_freevars:
                return None
            swaps.append((function, twin))
    return swaps or None


def _job(items: list[pytest.Item], swaps: list[tuple[FunctionType, CodeType]]) -> Callable[[], str]:
    def work() -> str:
        for function, code in swaps:
            function.__code__ = code
        return _first_failure(items)

    return work
