"""What a name of `engine.kind` stands for, and what it is told to make a run's engines from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sectow_fast.config import Config
from sectow_fast.engine.protocol import Engine, EngineCodec
from sectow_fast.engine.reference import LogProbs, plain_logprobs
from sectow_fast.engine.weight_sync import Weights, checkpoint_weights


class Engines(Protocol):
    """All engines of one run."""

    def of(self, name: str, model: Any) -> Engine:
        """The engine of one player ("attacker", "defender", "round-0")."""
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

    folder: theirs to write into. write_folder(path) writes a model's folder (configuration,
    processor, weights) there. weights_of: a model's tensors by checkpoint name. logprobs: a
    completion's log-probs by the trainer, as `plain_logprobs` gives them; None where one rank alone
    cannot compute them.
    """

    config: Config
    codec: EngineCodec
    folder: Path
    write_folder: Callable[[Path], None]
    weights_of: Weights = checkpoint_weights
    logprobs: LogProbs | None = plain_logprobs


def _nothing_to_check(config: Config) -> None:
    pass


def _no_plan(config: Config) -> bool:
    return False


def _no_remark(config: Config, weights: int) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """Everything that is particular to one kind of engine.

    make: a run's engines. check: UserError where this environment cannot make them; it runs before
    anything is written. shares_weights: whether the engines draw from the trainer's own model, so
    that its weights stay on the device, and a rank with a share of them needs a whole copy.
    needs_plan: whether the engines share a GPU with the trainer, so that its memory is planned
    (learn/memory.py).
    remark(config, bytes of one model's weights): what `--dry-run` says besides.
    """

    make: Callable[[EngineSetup], Engines]
    check: Callable[[Config], None] = _nothing_to_check
    shares_weights: bool = True
    needs_plan: Callable[[Config], bool] = _no_plan
    remark: Callable[[Config, int], str] = _no_remark


class EnginePerModel:
    """`Engines` of a plain class: `engine(model, codec)` for each model, in this process."""

    def __init__(self, engine: Callable[[Any, EngineCodec], Engine], setup: EngineSetup) -> None:
        self._engine, self._codec = engine, setup.codec
        self._made: list[Engine] = []

    def of(self, name: str, model: Any) -> Engine:
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
