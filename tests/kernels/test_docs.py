"""The snippet of docs/EMBEDDING.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "EMBEDDING.md"


def test_the_snippet_runs_and_trains():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    scope: dict = {}
    exec(compile(code, str(PAGE), "exec"), scope)
    assert scope["loss"].isfinite()
    assert scope["head"].weight.grad.abs().sum() > 0
    assert scope["backbone"].weight.grad.abs().sum() > 0
