"""Toy benchmarks and tiny models come from tests/evaluate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))

import layouts
from tiny_models import save_qwen2_5_vl
from tiny_text import MODELS, save_text


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Path:
    """Every toy suite in its published layout; to be copied, not changed."""
    base = tmp_path_factory.mktemp("toys")
    for name, write in layouts.WRITERS.items():
        write(base / name)
    return base


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Tiny models of words alone, by kind; to be copied, not changed."""
    base = tmp_path_factory.mktemp("texts")
    return {kind: save_text(base / kind, kind) for kind in MODELS}


@pytest.fixture(scope="session")
def folders(toys) -> Path:
    """The same, as the suites of a run."""
    return toys


@pytest.fixture(scope="session")
def qwen(tmp_path_factory) -> Path:
    """A tiny Qwen2.5-VL that knows the toys' words; to be copied, not changed."""
    return save_qwen2_5_vl(tmp_path_factory.mktemp("models") / "qwen", taught=True)
