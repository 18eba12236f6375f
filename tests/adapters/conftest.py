"""Tiny models come from tests/evaluate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))


@pytest.fixture(scope="session")
def stage() -> SandboxStage:
    return SandboxStage(Config())
