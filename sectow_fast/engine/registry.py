"""Which engines there are: `engine.kind` names one of them, and a plugin may add more."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineKind, EnginePerModel
from sectow_fast.engine.protocol import Engine, EngineCodec
from sectow_fast.engine.sglang_kind import SGLANG
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.registry import Registry

ENGINES = Registry[EngineKind]("engine")


def register_engine(name: str, engine: Callable[[Any, EngineCodec], Engine] | EngineKind) -> None:
    """Add an engine for `engine.kind`. UserError where the name is taken.

    engine: a class that is called as `engine(model, codec)`, once per model, and draws from that
    very model; or an `EngineKind`, which says how engines of another sort are made and checked.
    """
    if not isinstance(engine, EngineKind):
        engine = EngineKind(make=functools.partial(EnginePerModel, engine))
    ENGINES.register(name, engine)


register_engine("torch", TorchEngine)
register_engine("sglang", SGLANG)


def engine_kind(config: Config) -> EngineKind:
    """The kind that the configuration names. UserError where nobody registered it."""
    return ENGINES.get(config.engine.kind, setting="engine.kind")
