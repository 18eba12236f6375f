"""Worked examples of every extension point, loaded from outside the package as a user's file is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent / "examples"


@pytest.fixture
def outside(tmp_path):
    """outside("policy_loss"): a copy of that example in a folder of its own; its path."""

    def copied(name: str) -> Path:
        return Path(shutil.copy(EXAMPLES / f"{name}.py", tmp_path / f"{name}.py"))

    return copied
