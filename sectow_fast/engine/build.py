"""Engines from a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sectow_fast.config import Config, EngineConfig
from sectow_fast.engine.memory import GIB, MemoryPlan, plan_memory, shape_of
from sectow_fast.engine.protocol import Engine
from sectow_fast.engine.sglang_engine import SGLangEngine
from sectow_fast.engine.sglang_server import SGLangServer
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.engine.weight_sync import Weights, checkpoint_weights, folder_shapes
from sectow_fast.types import UserError

OURS = "sectow_fast.engine.sglang_models"
CONTEXT = 4096  # tokens a sequence the plan reckons with where the configuration says nothing


class TorchEngines:
    """An engine a model, in this process."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def of(self, name: str, model: Any) -> Engine:
        return TorchEngine(model, self._codec)

    @property
    def counts(self) -> dict[str, int]:
        return {}

    @property
    def versions(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Nothing to end."""


class SGLangEngines:
    """SGLang for every model of a match: a server a player, or one for all (`roles`).

    The defender as it was at round 0 shares the defender's server, which holds one model's weights
    at a time. write_folder writes a model's folder (configuration, processor, weights) for the
    servers to start from; it is called once, at the first use. weights_of: a model's tensors by
    checkpoint name.
    """

    def __init__(
        self,
        config: Config,
        codec: Any,
        *,
        folder: Path,
        write_folder: Callable[[Path], None],
        weights_of: Weights = checkpoint_weights,
    ) -> None:
        self._config, self._codec, self._weights_of = config, codec, weights_of
        self._folder, self._write = folder, write_folder
        self._servers: dict[str, SGLangServer] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def of(self, name: str, model: Any) -> SGLangEngine:
        """The engine of one player."""
        if not self._shapes:
            if not (self._folder / "model" / "config.json").exists():
                self._write(self._folder / "model")
            self._shapes = folder_shapes(self._folder / "model")
        where = "attacker" if name == "attacker" else "defender"
        if two_roles(self._config, self._folder / "model") == "swap":
            where = "both"
        if where not in self._servers:
            self._servers[where] = SGLangServer(
                config=self._config.engine,
                arguments=engine_arguments(self._config, self._folder / "model"),
                environment=environment(self._config.engine, self._folder / "model"),
                log=self._folder / f"{where}.log",
            )
        return SGLangEngine(
            self._servers[where],
            model,
            self._codec,
            name=name,
            shapes=self._shapes,
            neighbours=self._servers,
            weights_of=self._weights_of,
        )

    @property
    def counts(self) -> dict[str, int]:
        """Restarts, resent requests, bad rows: of all servers together."""
        total: dict[str, int] = {}
        for server in self._servers.values():
            for name, value in server.counts.items():
                total[name] = total.get(name, 0) + value
        return total

    @property
    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"sglang": version("sglang")}

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


def make_engines(
    config: Config,
    codec: Any,
    *,
    folder: Path,
    write_folder: Callable[[Path], None],
    weights_of: Weights = checkpoint_weights,
) -> TorchEngines | SGLangEngines:
    """The engines that `config.engine` asks for."""
    check_engines(config)
    if config.engine.kind == "torch":
        return TorchEngines(codec)
    return SGLangEngines(
        config, codec, folder=folder, write_folder=write_folder, weights_of=weights_of
    )


def check_engines(config: Config) -> None:
    """UserError where this environment cannot make them; before anything is written."""
    import importlib.util

    if config.engine.kind == "sglang" and importlib.util.find_spec("sglang") is None:
        raise UserError(
            "engine.kind sglang: found no SGLang in this environment, expected one;"
            " pip install -e .[sglang] (GPU), or see docs/ENGINE.md for a CPU"
        )
    if config.engine.deterministic and device_of(config.engine) == "cpu":
        raise UserError(
            "engine.deterministic: found true on a CPU, expected false: SGLang has no"
            " deterministic attention there"
        )


def device_of(engine: EngineConfig) -> str:
    """Where the engine runs: "cpu" or "cuda"."""
    if engine.device != "auto":
        return engine.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpu_bytes(engine: EngineConfig) -> int:
    """The GPU's memory; `engine.gpu_gib` where there is none."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
    return int(engine.gpu_gib * GIB)


def memory_plan(config: Config, model: str) -> MemoryPlan:
    """The plan for a model's folder (or a known model's name); see `plan_memory`."""
    engine = config.engine
    return plan_memory(
        shape_of(model),
        gpu=gpu_bytes(engine),
        ranks=engine.gpus,
        tp=engine.tp,
        tokens_per_batch=max(config.attack.tokens_per_batch, config.defend.tokens_per_batch),
        context=engine.context_length or CONTEXT,
        max_running=engine.max_running,
        bucket=engine.bucket_mb * 2**20,
        roles=engine.roles,
    )


def offloads(config: Config) -> bool:
    """Whether weights and optimizer rest in host memory between updates: `auto` asks the plan."""
    if config.learn.offload != "auto":
        return config.learn.offload == "on"
    if config.engine.kind != "sglang" or device_of(config.engine) == "cpu":
        return False
    return config.model.defender is not None and memory_plan(config, config.model.defender).offload


def two_roles(config: Config, folder: Path) -> str:
    """An engine a player ("two") or one for both ("swap"): `auto` asks the plan on a GPU.

    A CPU has room for two.
    """
    if config.engine.roles != "auto":
        return config.engine.roles
    if device_of(config.engine) == "cpu":
        return "two"
    return memory_plan(config, str(folder)).roles


def engine_arguments(config: Config, folder: Path) -> dict[str, Any]:
    """What `sglang.Engine` is started with."""
    engine = config.engine
    common: dict[str, Any] = {
        "model_path": str(folder),
        # Every weight comes by a push, and one that does not shows in the first log-probs.
        "load_format": "dummy",
        "dtype": engine.dtype,
        "tp_size": engine.tp,
        "random_seed": config.seed,
        "max_running_requests": engine.max_running,
        "enable_multimodal": True,
        "skip_server_warmup": True,
        "log_level": "warning",
        "trust_remote_code": config.model.trust_remote_code,
    }
    if engine.context_length:
        common["context_length"] = engine.context_length
    if engine.attention:
        common["attention_backend"] = engine.attention
    if device_of(engine) == "cpu":
        return common | {
            "device": "cpu",
            "attention_backend": engine.attention or "torch_native",
            "sampling_backend": "pytorch",
            "grammar_backend": "none",
            "mm_attention_backend": "sdpa",
            "disable_cuda_graph": True,
            "disable_overlap_schedule": True,
            "max_total_tokens": engine.kv_tokens,
            "sleep_on_idle": True,  # its idle loop would take a core from the trainer
        }
    import torch

    plan = memory_plan(config, str(folder))
    taken = plan.phases["rollout"]["engine weights"] + plan.phases["rollout"]["engine cache"]
    by_plan = taken / plan.gpu / (2 if plan.roles == "two" else 1)
    return common | {
        "enable_memory_saver": True,
        "mem_fraction_static": engine.memory or round(by_plan, 3),
        "base_gpu_id": torch.cuda.current_device() if torch.cuda.is_available() else 0,
        "random_seed": config.seed + int(os.environ.get("RANK", "0")),
        "enable_deterministic_inference": engine.deterministic,
    }


def environment(engine: EngineConfig, folder: Path) -> dict[str, str]:
    """Variables that SGLang reads, beyond those of the trainer."""
    import json

    added = {}
    if device_of(engine) == "cpu":
        added["SGLANG_USE_CPU_ENGINE"] = "1"
        # glibc raises this bound by itself, keeps freed buckets on its heap, and the scheduler
        # grows by 10 % over 120 syncs before it levels off. Fixed, it does not grow.
        added["MALLOC_MMAP_THRESHOLD_"] = added["MALLOC_TRIM_THRESHOLD_"] = str(128 * 1024)
    model = json.loads((folder / "config.json").read_text())
    tower = model.get("vision_config", {}).get("model_type")
    if model["model_type"] == "llava" and tower == "clip_vision_model":
        added["SGLANG_EXTERNAL_MODEL_PACKAGE"] = OURS
        added["SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE"] = OURS
    return added
