"""What SGLang is started with, from a configuration: device, memory, arguments, variables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sectow_fast.config import Config, EngineConfig

OURS = "sectow_fast.engine.sglang_models"


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
    return int(engine.gpu_gib * 2**30)


def two_roles(config: Config) -> str:
    """One engine per player ("two") or one for both ("swap"). A CPU has room for two, and on a GPU
    `learn.memory.settled` has put a choice in the place of `auto`."""
    return "two" if config.engine.roles == "auto" else config.engine.roles


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

    if engine.memory:
        common["mem_fraction_static"] = engine.memory
    return common | {
        "enable_memory_saver": True,
        "max_total_tokens": engine.kv_tokens,
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
