"""Stage 0: are all names of torch, transformers and Triton there, and is the C++ core built."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_check import names
from gpu_check.check import Check, Failed, Row


def run(check: Check) -> Iterator[Row]:
    """One row with the count, and one for each name that these versions do not have."""
    wanted = names.here()
    lost = names.missing(wanted)
    yield {"name": "names that the package uses", "count": len(wanted), "missing": len(lost)}
    for one in lost:
        yield {"name": one, "missing": 1}
    try:
        from sectow_fast.native import sampling  # noqa: F401
    except ImportError as error:
        lost.append("the C++ core")
        yield {"name": f"the C++ core: {error}", "missing": 1}
    if lost:
        raise Failed(f"{len(lost)} names are missing: {lost[0]}")
