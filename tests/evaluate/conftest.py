from __future__ import annotations

from pathlib import Path

import layouts
import pytest
from tiny_guard import make_guard
from tiny_models import save_qwen2_5_vl
from tiny_text import MODELS, save_text


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    return make_guard(tmp_path_factory.mktemp("guard") / "tiny-guard")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory) -> Path:
    """A tiny random Qwen2.5-VL; to be copied, not changed."""
    return save_qwen2_5_vl(tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Tiny models of words alone, by kind; to be copied, not changed."""
    base = tmp_path_factory.mktemp("texts")
    return {kind: save_text(base / kind, kind) for kind in MODELS}


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Path:
    """Every toy suite in its published layout; to be copied, not changed."""
    base = tmp_path_factory.mktemp("toys")
    for name, write in layouts.WRITERS.items():
        write(base / name)
    return base
