"""Stage 0: are all names of torch, transformers and Triton there, and is the C++ core built."""

from __future__ import annotations

from collections.abc import Iterator

from bench.gpu_check import names
from bench.gpu_check.check import Check, Failed, Row
from sectow_fast.native.core import HAVE_EXTENSION


def run(check: Check) -> Iterator[Row]:
    """One row with the count, and one for each name that these versions do not have."""
    wanted = names.here()
    lost = names.missing(wanted)
    yield {"name": "names that the package uses", "count": len(wanted), "missing": len(lost)}
    for one in lost:
        yield {"name": one, "missing": 1}
    if not HAVE_EXTENSION:
        lost.append("the C++ core, whose slower twins in Python would be measured")
        yield {"name": "the C++ core (python setup.py build_ext --inplace)", "missing": 1}
    if lost:
        raise Failed(f"{len(lost)} missing: {lost[0]}")
