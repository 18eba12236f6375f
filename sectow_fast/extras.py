"""`pip install sectow-fast` gives the kernels and the C++ core; the trainer needs an extra.

The packages of an extra are read from the installed distribution itself, so pyproject.toml is the
one list. In a checkout that was never installed there is nothing to read: imports fail by name.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import metadata

DISTRIBUTION = "sectow-fast"


class MissingExtra(ImportError):
    """Packages of an extra are not installed."""


@cache
def require(extra: str) -> None:
    """MissingExtra, in one line, where a package of `extra` is not installed.

    A command of ours (`python -m sectow_fast.NAME`) ends with that line and exit code 2 instead.
    """
    missing = [name for name in packages_of(extra) if not _installed(name)]
    if not missing:
        return
    words = (
        f"found no {', '.join(missing)}, which this part of sectow_fast needs;"
        f" pip install '{DISTRIBUTION}[{extra}]'"
    )
    at = sys.orig_argv.index("-m") if "-m" in sys.orig_argv[:-1] else None
    if at is not None and sys.orig_argv[at + 1].startswith("sectow_fast."):
        print(f"error: {words}", file=sys.stderr)
        raise SystemExit(2)
    raise MissingExtra(words)


def packages_of(extra: str) -> list[str]:
    """Distribution names that `extra` adds; none where sectow-fast was not installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    mine = re.compile(rf"""extra\s*==\s*["']{re.escape(extra)}["']""")
    return [re.split(r"[\s\[;<>=!~(]", line, maxsplit=1)[0] for line in lines if mine.search(line)]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
