"""What SGLang is started with, from a configuration: device, memory, arguments, variables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sectow_fast.config import Config, EngineConfig
from sectow_fast.types import UserError

OURS = "sectow_fast.engine.sglang_models"
GIB = 2**30
CONTEXT = 4096  # tokens per sequence that the plan reckons with where the configuration says none
PAGE = 256  # tokens by which SGLang may round a cache down to whole pages
CPU_TOKENS = 65536  # cache on a CPU where the configuration says none
SIZES = {"float32": 4, "bfloat16": 2}


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
        # Not of GPU 0: each rank would leave a context there.
        here = int(os.environ.get("LOCAL_RANK", "0"))
        return int(torch.cuda.get_device_properties(here).total_memory)
    return int(engine.gpu_gib * GIB)


def two_roles(config: Config) -> str:
    """One engine per player ("two") or one for both ("swap").

    `auto` is two: a CPU has room for them, and so has a GPU for the sandbox's model. For a real
    model on a GPU `learn.memory.settled` has put a choice in the place of `auto`.
    """
    return "two" if config.engine.roles == "auto" else config.engine.roles


def cpu_tokens(engine: EngineConfig) -> int:
    """Cache tokens of an engine on a CPU."""
    return engine.kv_tokens or CPU_TOKENS


def cache_token_bytes(text: Mapping[str, Any], engine: EngineConfig) -> int:
    """Bytes of cache that a token takes on one GPU: keys and values of every layer, in the engine's
    dtype. Heads are shared out over `tp` GPUs, at least one each. text: a decoder's configuration.
    """
    heads = text.get("num_key_value_heads") or text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    here = max(1, heads // engine.tp)
    return 2 * text["num_hidden_layers"] * here * size * SIZES[engine.dtype]


def kv_tokens_for(
    engine: EngineConfig, *, context: int, bytes_free: int, cache_bytes_per_token: int
) -> int:
    """Cache tokens that an engine is started with: `engine.kv_tokens`, or where it is none, as many
    as `max_running` requests of `context` tokens can ever use and `bytes_free` can hold.

    UserError where that is less than one request, or where `engine.kv_tokens` does not fit.

    >>> kv_tokens_for(EngineConfig(max_running=2), context=100, bytes_free=1500,
    ...               cache_bytes_per_token=10)
    150
    """
    room = max(bytes_free, 0) // cache_bytes_per_token
    tokens = engine.kv_tokens or min(engine.max_running * context, room)
    least = engine.kv_tokens or context
    if room < least:
        raise UserError(
            f"engine.{'kv_tokens' if engine.kv_tokens else 'context_length'}: found room for"
            f" {room:,} cache tokens in {bytes_free / GIB:.1f} GiB, expected {least:,}; set it"
            " lower than that, use one engine that swaps if there are two (engine.roles swap), or a"
            " larger GPU"
        )
    return tokens


def cards_problem(engine: EngineConfig, *, world: int) -> str | None:
    """Why `world` ranks with an engine each do not go with this machine's GPUs, in words; None
    where they do. Rank r's engine takes the `tp` GPUs from r x tp on (`first_card`)."""
    if device_of(engine) == "cpu":
        if engine.tp > 1:
            return f"engine.tp: found {engine.tp} on a CPU, expected 1"
        return None
    import torch

    if world != engine.gpus:
        return (
            f"engine.gpus: found {engine.gpus} and a run of {world} ranks, expected the same"
            f" number; start it by torchrun with {engine.gpus} processes in all, or set engine.gpus"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cards = torch.cuda.device_count()
    if not cards:
        return (
            "engine.device cuda: found no GPU that torch sees, expected one; look at nvidia-smi and"
            " CUDA_VISIBLE_DEVICES, or set engine.device cpu"
        )
    if here * engine.tp > cards:
        return (
            f"engine.tp: found {cards} visible GPUs for {here} ranks on this machine, each with an"
            f" engine of {engine.tp}, expected {here * engine.tp}; lower engine.tp or the number of"
            " ranks"
        )
    return None


def first_card(engine: EngineConfig) -> int:
    """The first GPU of this rank's engine: engines of several GPUs stand side by side."""
    return int(os.environ.get("LOCAL_RANK", "0")) * engine.tp


def _cache_tokens(config: Config, folder: Path) -> int:
    """Of a real model as `learn.memory.settled` planned it; of the sandbox's own model, which needs
    next to nothing, by `kv_tokens_for` in a quarter of the GPU for the engines together."""
    from transformers import AutoConfig

    if config.model.defender is not None and config.engine.kv_tokens:
        return config.engine.kv_tokens
    # A config.json leaves out what is its class's default, so it is not read as it stands.
    found = AutoConfig.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)
    model = found.get_text_config().to_dict()
    engines = 2 if two_roles(config) == "two" else 1
    longest = model["max_position_embeddings"]
    return kv_tokens_for(
        config.engine,
        context=config.engine.context_length or min(CONTEXT, longest),
        bytes_free=gpu_bytes(config.engine) // 4 // engines,
        cache_bytes_per_token=cache_token_bytes(model, config.engine),
    )


def write_dtype(folder: Path, dtype: str) -> None:
    """Put the engine's dtype into a folder's config.json, which was written for the trainer's."""
    path = folder / "config.json"
    model = json.loads(path.read_text())
    model.pop("torch_dtype", None)  # its name before transformers 5
    path.write_text(json.dumps(model | {"dtype": dtype}, indent=2) + "\n")


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
            "max_total_tokens": cpu_tokens(engine),
            "sleep_on_idle": True,  # its idle loop would take a core from the trainer
        }
    if engine.memory is not None:
        common["mem_fraction_static"] = engine.memory
    return common | {
        "enable_memory_saver": True,
        "max_total_tokens": _cache_tokens(config, folder),
        "base_gpu_id": first_card(engine),
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


def weights_device(arguments: Mapping[str, Any]) -> torch.device:
    """Where an engine with these arguments wants its weights."""
    on_cpu = arguments.get("device") == "cpu"
    return torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())


def check_cache(arguments: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """UserError where an engine's cache is smaller than it was asked for.

    arguments: of its start; info: what it says of itself, where it says anything of its cache.
    """
    asked, got = arguments.get("max_total_tokens"), info.get("cache_tokens")
    if asked and got and got < asked - PAGE:
        raise UserError(
            f"engine: SGLang made a cache of {got:,} tokens, expected {asked:,}: too little of the"
            " GPU's memory is free at its start; lower engine.kv_tokens or engine.max_running, or"
            " end what else is on the GPU"
        )
