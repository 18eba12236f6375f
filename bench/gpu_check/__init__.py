"""`make gpu-check`: what only a CUDA card can show, in stages (docs/GPU.md).

The modules of bench/ and of tests/evaluate/ are imported by their plain names, as everywhere there.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for _folder in (ROOT / "bench", ROOT / "tests" / "evaluate"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
