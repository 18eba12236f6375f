"""`engine.kind sglang`: the servers of a run, and what is asked before one is started."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import Any

from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineKind, EngineSetup
from sectow_fast.engine.sglang_engine import SGLangEngine
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.engine.sglang_settings import (
    device_of,
    engine_arguments,
    environment,
    two_roles,
)
from sectow_fast.engine.weight_sync import folder_shapes
from sectow_fast.types import UserError


class SGLangEngines:
    """SGLang for every model of a match: one server per player, or one for all (`engine.roles`).

    The defender as it was at round 0 shares the defender's server, which holds one model's weights
    at a time. The servers start from one model folder, which is written at the first use.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup, self._model_folder = setup, setup.folder / "model"
        self._servers: dict[str, SGLangServer] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def of(self, name: str, model: Any) -> SGLangEngine:
        """The engine of one player."""
        if not self._shapes:
            if not (self._model_folder / "config.json").exists():
                self._setup.write_folder(self._model_folder)
            self._shapes = folder_shapes(self._model_folder)
        return SGLangEngine(
            self._server(name),
            model,
            self._setup.codec,
            name=name,
            shapes=self._shapes,
            neighbours=self._servers,
            weights_of=self._setup.weights_of,
            logprobs=self._setup.logprobs,
        )

    def _server(self, name: str) -> SGLangServer:
        config, folder = self._setup.config, self._model_folder
        where = "attacker" if name == "attacker" else "defender"
        if two_roles(config) == "swap":
            where = "both"
        if where not in self._servers:
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


def _check(config: Config) -> None:
    if importlib.util.find_spec("sglang") is None:
        raise UserError(
            "engine.kind sglang: found no SGLang in this environment, expected one;"
            " pip install -e .[sglang] (GPU), or see docs/ENGINE.md for a CPU"
        )
    if config.engine.deterministic and device_of(config.engine) == "cpu":
        raise UserError(
            "engine.deterministic: found true on a CPU, expected false: SGLang has no"
            " deterministic attention there"
        )


def _needs_plan(config: Config) -> bool:
    return device_of(config.engine) != "cpu"


def _remark(config: Config, weights: int) -> str:
    if device_of(config.engine) != "cpu":
        return "engine: SGLang on a GPU. The time above is TorchEngine's."
    return (
        f"engine: SGLang on a CPU, {config.engine.roles.replace('auto', 'two')} engines; each"
        f" holds {weights / 2**20:.0f} MiB of weights and {config.engine.kv_tokens:,} tokens of"
        " cache. Its rollouts take longer than the time above, which is TorchEngine's."
    )


SGLANG = EngineKind(
    make=SGLangEngines, check=_check, shares_weights=False, needs_plan=_needs_plan, remark=_remark
)
