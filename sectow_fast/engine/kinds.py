"""What a name of `engine.kind` stands for, and what it is told to make a run's engines from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sectow_fast.config import Config
from sectow_fast.engine.protocol import Engine, EngineCodec
from sectow_fast.engine.reference import Gaps
from sectow_fast.engine.weight_sync import Weights, checkpoint_weights


class Engines(Protocol):
    """All engines of one run."""

    def start(self) -> None:
        """Start what needs an empty device, and put it to sleep, before a model is loaded.

        Without this call an engine starts when it first draws.
        """
        ...

    def of(self, name: str, model: Any, gaps: Gaps | None = None) -> Engine:
        """The engine of one player ("attacker", "defender", or "defender-0" for one of an
        earlier round). gaps: how log-probs are compared with the trainer's, where its weights are
        sharded; see `reference.Gaps`."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What befell the engines so far, for the log of each step. Empty: nothing is logged."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the programs that draw, for the run's summary."""
        ...

    def close(self) -> None:
        """End all that was started."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSetup:
    """What engines are made from.

    folder: theirs to write into. write_folder(path) writes a model's folder there, without weights:
    configuration, tokenizer, processor. weights_of: a model's tensors by checkpoint name.
    """

    config: Config
    codec: EngineCodec
    folder: Path
    write_folder: Callable[[Path], None]
    weights_of: Weights = checkpoint_weights


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """Everything that is particular to one kind of engine.

    make: a run's engines. check(config, ranks of the run): UserError where they cannot be made
    here; it runs before anything is written or loaded. shares_weights: whether the engines draw
    from the trainer's own model, so that its weights stay on the device, and a rank with a share of
    them needs a whole copy.
    needs_plan: whether the engines share a GPU with the trainer, so that its memory is planned
    (learn/memory.py).
    remark(config, bytes of one model's weights): what `--dry-run` says besides.
    """

    make: Callable[[EngineSetup], Engines]
    check: Callable[[Config, int], None] = lambda config, world: None
    shares_weights: bool = True
    needs_plan: Callable[[Config], bool] = lambda config: False
    remark: Callable[[Config, int], str] = lambda config, weights: ""


class EnginePerModel:
    """`Engines` of a plain class: `engine(model, codec)` for each model, in this process."""

    def __init__(self, engine: Callable[[Any, EngineCodec], Engine], setup: EngineSetup) -> None:
        self._engine, self._codec = engine, setup.codec
        self._made: list[Engine] = []

    def start(self) -> None:
        """Nothing: these engines draw from the trainer's own models."""

    def of(self, name: str, model: Any, gaps: Gaps | None = None) -> Engine:
        self._made.append(self._engine(model, self._codec))
        return self._made[-1]

    @property
    def counts(self) -> dict[str, int]:
        return {}

    @property
    def versions(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Close every engine that was made."""
        for engine in self._made:
            engine.close()
