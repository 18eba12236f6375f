"""Tests against the real SGLang on a CPU: `make test-sglang`, in a virtual environment of its own.

Where SGLang is not installed (the main environment) nothing here is collected; `make test-sglang`
fails where nothing was collected.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing.context as contexts
import os
from collections.abc import Callable, Iterator

import commands
import pytest

from sectow_fast.config import Config, EngineConfig, SandboxConfig
from sectow_fast.data.sandbox.stage import SandboxStage
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.sglang_kind import SGLangEngines
from sectow_fast.engine.sglang_settings import OURS
from sectow_fast.game.player import Player

# What the processes of an engine import, and what must be set before. They are forks of the process
# that starts the engine (site/sitecustomize.py), but for the defender's first one below.
SGLANG = [
    "sglang.srt.entrypoints.engine",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.managers.scheduler",
]
VARIABLES = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "SGLANG_EXTERNAL_MODEL_PACKAGE": OURS,
    "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE": OURS,
}
if importlib.util.find_spec("sglang") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    commands.IMPORTED += SGLANG
    commands.VARIABLES |= VARIABLES

SMALL = SandboxConfig(suite_size=40, picture_variants=3)


@pytest.fixture(scope="session", autouse=True)
def _sglang_is_imported() -> None:
    os.environ |= VARIABLES
    for name in SGLANG:
        importlib.import_module(name)


@pytest.fixture(name="spawning")
def _spawning() -> Callable[[], contextlib.AbstractContextManager[None]]:
    return spawning


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """An engine that is started in here is started as a user's is: from nothing but what
    sectow_fast sets."""
    kept = contexts._concrete_contexts["spawn"]
    contexts._concrete_contexts["spawn"] = contexts.SpawnContext()
    for name in VARIABLES:
        del os.environ[name]
    os.environ["SGLANG_TESTS_START"] = "spawn"
    try:
        yield
    finally:
        del os.environ["SGLANG_TESTS_START"]
        os.environ |= VARIABLES
        contexts._concrete_contexts["spawn"] = kept


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
    made = {
        name: Player(model=model, engine=engines.of(name, model), codec=stage.codec)
        for name, model in models.items()
    }
    with spawning():
        made["defender"].engine.server.start()
    yield made
    engines.close()


@pytest.fixture
def engine(players):
    """The defender's; as every test finds it: weights in step, no request open."""
    engine = players["defender"].engine
    engine.server.abort(list(engine.server._waiting))  # left by a test that failed
    engine.sync(engine.model)
    return engine
