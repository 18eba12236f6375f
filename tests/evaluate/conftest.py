from __future__ import annotations

import pytest
from tiny_guard import make_guard


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    return make_guard(tmp_path_factory.mktemp("guard") / "tiny-guard")
