"""Stage 1: the kernels on the card against float64, and their memory accesses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from bench.gpu_check import ROOT
from bench.gpu_check.check import Check, Failed, Row

MARK = "pytest.mark." + "gpu"
SANITIZER = ("compute-sanitizer", "--error-exitcode", "9")


def run(check: Check) -> Iterator[Row]:
    """Counts of `pytest -m gpu`, each failure, and the sanitizer's verdict where it is there."""
    report = check.scratch / "gpu-tests.xml"
    command = [sys.executable, "-m", "pytest", *files(), "-m", "gpu", f"--junitxml={report}"]
    subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, env=_environment())
    counts, failures = counted(report)
    yield {"name": "pytest tests -m gpu", **counts}
    yield from ({"name": one, "failed": 1} for one in failures)
    sanitized = _sanitized(check)
    yield sanitized
    wanted = "skipped" if check.rehearse else "passed"
    if failures or sanitized.get("failed") or not counts[wanted]:
        raise Failed(f"{counts['failed']} of the tests failed, {counts[wanted]} {wanted}")


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
    row: Row = {"name": "compute-sanitizer, row kernels"}
    if not check.rehearse and shutil.which(SANITIZER[0]) is None:
        return row | {"absent": f"{SANITIZER[0]} is not on the path"}
    tool = () if check.rehearse else SANITIZER
    command = [*tool, sys.executable, "-m", "bench.gpu_check.row_kernels", check.device.name]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return row | {"passed": int(done.returncode == 0), "failed": int(done.returncode != 0)}


def _environment() -> dict[str, str]:
    """The tests and the kernels of this checkout, whatever is installed."""
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
