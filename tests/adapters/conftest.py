from __future__ import annotations

import pytest

from sectow_fast.config import Config
from sectow_fast.data.sandbox.stage import SandboxStage


@pytest.fixture(scope="session")
def stage() -> SandboxStage:
    return SandboxStage(Config())
