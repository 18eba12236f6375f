"""Tests against the real SGLang on a CPU: `make test-sglang`, in a virtual environment of its own.

Where SGLang is not installed (the main environment) nothing here is collected; `make test-sglang`
fails where nothing was collected.
"""

from __future__ import annotations

import importlib.util

import pytest

from sectow_fast.config import Config, EngineConfig, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.sglang_kind import SGLangEngines
from sectow_fast.game.player import Player

if importlib.util.find_spec("sglang") is None:
    collect_ignore_glob = ["test_*.py"]

SMALL = SandboxConfig(suite_size=40, picture_variants=3)


@pytest.fixture(scope="session")
def stage() -> SandboxStage:
    return SandboxStage(Config(sandbox=SMALL))


@pytest.fixture(scope="session")
def players(stage: SandboxStage, tmp_path_factory: pytest.TempPathFactory):
    """Attacker and defender, each with an SGLang of its own: started once, at the first use."""
    engine = EngineConfig(kind="sglang", roles="two", max_running=64)
    engines = SGLangEngines(
        EngineSetup(
            config=Config(sandbox=SMALL, engine=engine),
            codec=stage.codec,
            folder=tmp_path_factory.mktemp("engine"),
            write_folder=stage.describe,
        )
    )
    models = {name: stage.defender() for name in ("attacker", "defender")}
    yield {
        name: Player(model=model, engine=engines.of(name, model), codec=stage.codec)
        for name, model in models.items()
    }
    engines.close()


@pytest.fixture
def engine(players):
    """The defender's; as every test finds it: weights in step, no request open."""
    engine = players["defender"].engine
    engine.server.abort(list(engine.server._waiting))  # left by a test that failed
    engine.sync(engine.model)
    return engine
