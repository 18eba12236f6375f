"""Runs the mutants of one room against the room's own tests; called by run.py in a new process.

The tests are collected and run once without any mutant: this warms every import and every session
fixture, and records which test runs which line. Then each mutant gets a fork of this process. In
it the changed function's code is put in place and the tests that run the changed line are run, the
fastest first, until one fails. What runs at import (a constant, a default, a class body) needs a
fork in which nothing of the package is imported yet, and there all the room's tests are run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and each fork would load them

import pytest
from at_import import import_job, options
from forks import Result, in_forks, in_one_fork
from in_functions import MINIMUM, Warm
from mutants import Mutant, drawn, mutants_of
from rooms import ROOMS, Room


class Found(NamedTuple):
    """What the run of a room's functions leaves: results by mutant, and what the rest needs.

    foreign: modules that were loaded, but ours and the tests'; environment: with what the tests'
    set-up added.
    """

    results: dict[int, Result]
    seconds: float
    late: list[int]
    costs: dict[str, float]
    foreign: list[str]
    environment: dict[str, str]


def in_functions(room: Room, mutants: Sequence[Mutant], at_once: int, folder: str) -> Found:
    plugin = Warm(mutants, at_once=at_once, folder=folder)
    code = pytest.main([*options(folder), *room.tests], plugins=[plugin])
    if code != 0:
        raise SystemExit(f"{', '.join(room.tests)}: pytest ended with code {code}")
    foreign = [
        module
        for module, loaded in sys.modules.items()
        if not module.startswith(("sectow_fast", "conftest", "test_", "__main__"))
        and not str(getattr(loaded, "__file__", None) or "").startswith(str(room.root))
    ]
    return Found(
        results=plugin.results,
        seconds=plugin.seconds,
        late=plugin.late,
        costs=plugin.costs,
        foreign=foreign,
        environment=dict(os.environ),
    )


def run_room(
    name: str, room: Room, *, at_once: int, folder: str, sample: int | None = None
) -> dict[str, object]:
    """Results of every mutant of a room, as run.py reads them. folder: for temporary files.

    sample: so many mutants only, drawn by the room's name: the same ones for the same code.
    """
    os.chdir(room.root)
    sys.path.insert(0, str(room.root))
    begin = time.monotonic()
    mutants = [mutant for path in room.paths() for mutant in mutants_of(path)]
    every = len(mutants)
    mutants = drawn(mutants, sample, key=name)
    print(f"{name}: {len(mutants)} of {every} mutants", flush=True)
    found = in_one_fork(lambda: in_functions(room, mutants, at_once, folder))
    results = dict(found.results)
    rest = [i for i, one in enumerate(mutants) if one.function is None or i in found.late]
    print(f"{name}: {time.monotonic() - begin:.0f} s; {len(rest)} of them at import", flush=True)
    os.environ.update(found.environment)
    for module in found.foreign:
        with contextlib.suppress(Exception):  # what cannot be imported by itself is left to them
            importlib.import_module(module)
    gc.freeze()
    limit = 4 * MINIMUM + 3 * sum(found.costs.values())
    jobs = [
        (limit, import_job(mutant, room, found.costs, folder))
        for mutant in (None, *(mutants[i] for i in rest))
    ]
    for number, result in in_forks(jobs if rest else [], at_once=at_once, folder=folder):
        if number:
            results[rest[number - 1]] = result
        elif result.status != "survived":
            raise SystemExit(f"{name}: the tests fail in a fork without any mutant: {result}")
    return {
        "room": name,
        "every": every,
        "tests_seconds": round(found.seconds, 1),
        "run_seconds": round(time.monotonic() - begin, 1),
        "run_cpu_seconds": round(sum(os.times()[:4]), 1),
        "mutants": [
            dataclasses.asdict(results[number])
            | {
                "file": str(mutant.path.relative_to(room.root)),
                "line": mutant.line,
                "function": mutant.function or "(at import)",
                "diff": mutant.diff,
            }
            for number, mutant in enumerate(mutants)
        ],
    }


if __name__ == "__main__":
    name, path, jobs, most = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as scratch:
        written = run_room(
            name,
            ROOMS[name],
            at_once=int(jobs),
            folder=scratch,
            sample=int(most) if most else None,
        )
    Path(path).write_text(json.dumps(written, indent=1))
