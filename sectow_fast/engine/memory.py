"""Who holds how much of a GPU in which phase, worked out before a run starts.

Two players are trained in turn by FSDP2 over `ranks` GPUs; engines sleep while they train. Sizes
are bytes on one GPU: exact for weights, gradients, Adam and caches; activations as in Korthikanti
et al. 2022 (34 bytes a token, layer and hidden unit in bfloat16; 2 with recomputation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sectow_fast.types import UserError

GIB = 2**30
MASTER, GRADIENT, ADAM, COMPUTE = 4, 4, 8, 2  # bytes a parameter
ACTIVATION, RECOMPUTED = 34, 2  # bytes a token, layer and hidden unit
RESERVE = 3 * GIB  # CUDA contexts of two processes, graphs, fragmentation
CACHE_TOKENS_MIN = 32  # requests of full length that must fit, or decoding crawls


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model the plan needs. parameters: of one player, vision tower included."""

    parameters: int
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int

    @property
    def cache_bytes(self) -> int:
        """bfloat16 bytes of cache a token, on one engine."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


# From the models' own config.json and safetensors index, so that a plan needs no download.
KNOWN = {
    "qwen2.5-vl-3b": Shape(
        parameters=3_754_622_976, layers=36, hidden=2048, kv_heads=2, head_dim=128
    ),
    "qwen2.5-vl-7b": Shape(
        parameters=8_292_166_656, layers=28, hidden=3584, kv_heads=4, head_dim=128
    ),
}


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """phases: name -> what -> bytes. fits: every phase is within the GPU."""

    roles: Literal["two", "swap"]
    offload: bool  # optimizer and master weights to pinned host memory outside their own phase
    phases: Mapping[str, Mapping[str, int]]
    gpu: int
    host: int

    @property
    def fits(self) -> bool:
        return all(sum(parts.values()) <= self.gpu for parts in self.phases.values())

    @property
    def peak(self) -> int:
        return max(sum(parts.values()) for parts in self.phases.values())


def plan_memory(
    shape: Shape,
    *,
    gpu: int,
    ranks: int,
    tp: int,
    tokens_per_batch: int,
    context: int,
    max_running: int,
    bucket: int,
    recompute: bool = True,
    roles: Literal["auto", "two", "swap"] = "auto",
) -> MemoryPlan:
    """The first of: two engines, one that swaps, each without and then with offload, that fits.

    Two engines let attack and reply stream into each other; one saves its weights and half the
    cache. Where nothing fits, the leanest plan comes back with `fits` false.
    """
    wanted: Sequence[Literal["two", "swap"]] = ("two", "swap") if roles == "auto" else (roles,)
    found = None
    for offload in (False, True):
        for one in wanted:
            found = _plan(
                shape,
                one,
                offload,
                gpu=gpu,
                ranks=ranks,
                tp=tp,
                tokens=tokens_per_batch,
                cache=max_running * context,
                least=CACHE_TOKENS_MIN * context,
                bucket=bucket,
                recompute=recompute,
            )
            if found.fits:
                return found
    return found


def _plan(
    shape: Shape,
    roles: Literal["two", "swap"],
    offload: bool,
    *,
    gpu: int,
    ranks: int,
    tp: int,
    tokens: int,
    cache: int,
    least: int,
    bucket: int,
    recompute: bool,
) -> MemoryPlan:
    engines = 2 if roles == "two" else 1
    shard = shape.parameters // ranks
    masters, adam = 2 * shard * MASTER, shard * ADAM  # both players; the one in training
    resting = {} if offload else {"master weights, both players": masters, "optimizer": adam}
    host = (masters + adam) * ranks if offload else 0
    weights = engines * shape.parameters * COMPUTE // tp
    used = sum(resting.values()) + weights + RESERVE
    # The cache takes what is left, up to what all requests could ever use.
    room = max(gpu - used, engines * least * shape.cache_bytes // tp)
    kept = min(room, engines * cache * shape.cache_bytes // tp)
    per_token = RECOMPUTED if recompute else ACTIVATION
    activations = tokens * shape.hidden * (shape.layers * per_token + ACTIVATION)
    phases = {
        "rollout": resting
        | {"engine weights": weights, "engine cache": kept, "contexts and reserve": RESERVE},
        "train": {
            "master weights, both players": masters // 2 if offload else masters,
            "optimizer": adam,
            "gradients": shard * GRADIENT,
            "one layer gathered, twice": 2 * shape.parameters // shape.layers * COMPUTE,
            "activations": activations,
            "contexts and reserve": RESERVE,
        },
        "sync": {
            "master weights, both players": masters // 2 if offload else masters,
            "optimizer": 0 if offload else adam,
            "engine weights": weights,
            "bucket, twice": 2 * bucket,
            "contexts and reserve": RESERVE,
        },
    }
    return MemoryPlan(roles=roles, offload=offload, phases=phases, gpu=gpu, host=host)


def shape_of(name: str) -> Shape:
    """A model folder's shape, or that of a known model by its name. UserError otherwise."""
    import json
    from pathlib import Path

    path = Path(name) / "config.json"
    if path.is_file():
        from sectow_fast.engine.weight_sync import folder_shapes

        config: dict[str, Any] = json.loads(path.read_text())
        text = config.get("text_config", config)
        heads = text["num_attention_heads"]
        sizes = folder_shapes(path.parent).values()
        return Shape(
            parameters=sum(_product(shape) for shape in sizes),
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            kv_heads=text.get("num_key_value_heads", heads),
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        )
    lowered = Path(name).name.lower()
    for known, shape in KNOWN.items():
        if lowered.startswith(known):
            return shape
    raise UserError(
        f"model.defender {name}: found no config.json there, expected a model's folder"
        f" (or, for --dry-run, a name that begins with one of: {', '.join(sorted(KNOWN))});"
        " download the model and give its folder"
    )


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
