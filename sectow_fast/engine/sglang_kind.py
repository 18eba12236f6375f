"""`engine.kind sglang`: the servers of a run, and what is asked before one is started."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineKind, EngineSetup
from sectow_fast.engine.reference import Gaps
from sectow_fast.engine.sglang_engine import SGLangEngine
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.engine.sglang_settings import (
    cards_problem,
    cpu_tokens,
    device_of,
    engine_arguments,
    environment,
    two_roles,
    write_dtype,
)
from sectow_fast.engine.weight_sync import config_shapes
from sectow_fast.types import UserError


class SGLangEngines:
    """SGLang for every model of a match: one server per player, or one for all (`engine.roles`).

    The defender as it was at round 0 shares the defender's server, which holds one model's weights
    at a time. The servers start from a folder without weights, which is written at the first use.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._servers: dict[str, SGLangServer] = {}

    @functools.cached_property
    def _model_folder(self) -> Path:
        folder = self._setup.folder / "model"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that is resumed
        self._setup.write_folder(folder)
        write_dtype(folder, self._setup.config.engine.dtype)
        return folder

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        trust = self._setup.config.model.trust_remote_code
        return config_shapes(self._model_folder, trust_remote_code=trust)

    def start(self) -> None:
        """Every server in turn, each while the ones before it sleep. See `Engines`."""
        self._server("defender").start()
        if self._setup.config.attacker == "grpo":  # no other attacker draws
            self._server("attacker").start()

    def of(self, name: str, model: Any, gaps: Gaps | None = None) -> SGLangEngine:
        """The engine of one player."""
        return SGLangEngine(
            self._server(name),
            model,
            self._setup.codec,
            name=name,
            shapes=self._shapes,
            neighbours=self._servers,
            weights_of=self._setup.weights_of,
            gaps=gaps,
        )

    def _server(self, name: str) -> SGLangServer:
        config = self._setup.config
        # An earlier round's player, "attacker-2", draws where the present one does.
        where = "attacker" if name.partition("-")[0] == "attacker" else "defender"
        if two_roles(config) == "swap":
            where = "both"
        if where not in self._servers:
            folder = self._model_folder
            self._servers[where] = SGLangServer(
                config=config.engine,
                arguments=engine_arguments(config, folder),
                environment=environment(config.engine, folder),
                log=self._setup.folder / f"{where}.log",
            )
        return self._servers[where]

    @property
    def counts(self) -> dict[str, int]:
        """Restarts, resent requests, bad rows, stopped requests: of all servers together."""
        total: dict[str, int] = {}
        for server in self._servers.values():
            for name, value in server.counts.items():
                total[name] = total.get(name, 0) + value
        return total

    @property
    def versions(self) -> dict[str, str]:
        return {"sglang": version("sglang")}

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


def _check(config: Config, world: int) -> None:
    if importlib.util.find_spec("sglang") is None:
        raise UserError(
            "engine.kind sglang: found no SGLang in this environment, expected one;"
            " `make gpu` on a CUDA machine (docs/GPU.md), or see docs/ENGINE.md for a CPU"
        )
    if config.engine.deterministic and device_of(config.engine) == "cpu":
        raise UserError(
            "engine.deterministic: found true on a CPU, expected false: SGLang has no"
            " deterministic attention there"
        )
    found = cards_problem(config.engine, world=world)
    if found is not None:
        raise UserError(found)


def _remark(config: Config, weights: int) -> str:
    if device_of(config.engine) != "cpu":
        return "engine: SGLang on a GPU. The time above is TorchEngine's."
    return (
        f"engine: SGLang on a CPU, {config.engine.roles.replace('auto', 'two')} engines; each"
        f" holds {weights / 2**20:.0f} MiB of weights and {cpu_tokens(config.engine):,} tokens of"
        " cache. Its rollouts take longer than the time above, which is TorchEngine's."
    )


SGLANG = EngineKind(
    make=SGLangEngines,
    check=_check,
    shares_weights=False,
    needs_plan=lambda config: device_of(config.engine) != "cpu",
    remark=_remark,
)
