"""Stage 1: the kernels on the card against float64, and their memory accesses."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from bench.gpu_check import ROOT, row_kernels
from bench.gpu_check.check import Check, Failed, Row
from bench.gpu_check.forks import forked

MARK = "pytest.mark." + "gpu"
SANITIZER = ("compute-sanitizer", "--error-exitcode", "9")


def run(check: Check) -> Iterator[Row]:
    """Counts of `pytest -m gpu`, each failure, and the sanitizer's verdict where it is there."""
    if importlib.util.find_spec("pytest") is None:
        raise Failed(f"found no pytest, expected it: {sys.executable} -m pip install pytest")
    report = check.scratch / "gpu-tests.xml"
    # In a process of its own, which a kernel may end.
    options = ("-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider")
    code = forked("pytest", [*files(), *options])
    if not report.is_file():
        raise Failed(f"pytest ended with {code} and without a report; correct.log has its words")
    counts, failures = counted(report)
    yield {"name": "pytest tests -m gpu", **counts}
    yield from ({"name": one, "failed": 1} for one in failures)
    sanitized = _sanitized(check)
    yield sanitized
    wanted = "skipped" if check.rehearse else "passed"
    wrong = [f"{len(failures)} tests failed, the first is {failures[0]}"] if failures else []
    if code and not failures:
        wrong.append(f"pytest ended with {code}")
    if not counts[wanted]:
        wrong.append(f"no test was {wanted}")
    if sanitized.get("failed"):
        wrong.append(f"{SANITIZER[0]} failed the row kernels")
    if wrong:
        raise Failed(f"{'; '.join(wrong)}; correct.log has the words")


def files() -> list[str]:
    """The test files with a test for a card; to collect all the others would take a minute."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in found if MARK in path.read_text()]


def counted(report: Path) -> tuple[dict[str, int], list[str]]:
    """(tests passed, failed and skipped, names of those that failed) of a JUnit file."""
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0}, []
    for one in ElementTree.parse(report).iter("testcase"):
        kinds = {part.tag for part in one}
        kind = "failed" if kinds & {"failure", "error"} else "passed"
        counts["skipped" if "skipped" in kinds else kind] += 1
        if kind == "failed":
            failures.append(one.get("name", ""))
    return counts, failures


def _sanitized(check: Check) -> Row:
    """The row kernels once, at a small size. A rehearsal runs them without the tool around."""
    row: Row = {"name": f"row kernels under {SANITIZER[0]}"}
    if check.rehearse:
        row_kernels.main(check.device.name)
        return row | {"passed": 1, "failed": 0}
    if shutil.which(SANITIZER[0]) is None:
        return row | {"absent": f"{SANITIZER[0]} is not on the path"}
    command = [*SANITIZER, sys.executable, "-m", "bench.gpu_check.row_kernels", check.device.name]
    # The kernels of this checkout, whatever is installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return row | {"passed": int(done.returncode == 0), "failed": int(done.returncode != 0)}
