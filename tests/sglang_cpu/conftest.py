"""Tests against the real SGLang on a CPU: `make test-sglang`, in a virtual environment of its own.

Where SGLang is not installed (the main environment) nothing here is collected; `make test-sglang`
fails where nothing was collected.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sectow_fast.config import Config, EngineConfig, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.build import SGLangEngines

if importlib.util.find_spec("sglang") is None:
    collect_ignore_glob = ["test_*.py"]

SMALL = SandboxConfig(suite_size=40, picture_variants=3)


@pytest.fixture(scope="session")
def engine_config() -> Config:
    return Config(sandbox=SMALL, engine=EngineConfig(kind="sglang", timeout=20, max_running=64))


@pytest.fixture(scope="module")
def make(stage: SandboxStage, engine_config: Config, tmp_path_factory: pytest.TempPathFactory):
    """make(**engine settings) -> SGLangEngines over a folder of its own; all closed at the end."""
    made = []

    def build(**changes) -> SGLangEngines:
        engine = engine_config.engine.model_copy(update=changes)
        engines = SGLangEngines(
            engine_config.model_copy(update={"engine": engine}),
            stage.codec,
            folder=Path(tmp_path_factory.mktemp("engine")),
            write_folder=lambda folder: stage.save(stage.defender(), folder),
        )
        made.append(engines)
        return engines

    yield build
    for engines in made:
        engines.close()
