"""What SGLang is started with, from a configuration: device, memory, arguments, variables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sectow_fast.config import Config, EngineConfig
from sectow_fast.engine.memory import GIB, MemoryPlan, plan_memory, shape_of

OURS = "sectow_fast.engine.sglang_models"
CONTEXT = 4096  # tokens per sequence that the plan reckons with where the configuration says none


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


def two_roles(config: Config, folder: Path) -> str:
    """One engine per player ("two") or one for both ("swap"): `auto` asks the plan on a GPU.

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
