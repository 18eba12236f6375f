"""The only importer of `sectow_fast._C`: `core` is the extension, or None with one warning."""

from __future__ import annotations

import warnings
from typing import Any

core: Any
try:
    from sectow_fast import _C as core
except ImportError:
    core = None
    warnings.warn(
        "sectow_fast._C is not built, the slower plain Python twins serve;"
        " build it by `python setup.py build_ext --inplace` or `pip install .`",
        stacklevel=2,
    )

HAVE_EXTENSION = core is not None
