"""Who holds how much of a GPU in which phase, from what an update was found to take.

Two players are trained in turn over `ranks` GPUs; engines sleep while they train. Sizes are bytes
on one GPU.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sectow_fast.config import Config, GRPOConfig
from sectow_fast.engine.registry import engine_kind
from sectow_fast.engine.sglang_settings import CONTEXT, cache_token_bytes, gpu_bytes
from sectow_fast.learn.shapes import TrainingPeak, training_peak
from sectow_fast.learn.sharding import check_replicas
from sectow_fast.model_folder import configuration
from sectow_fast.types import UserError

GIB = 2**30
# Estimates, not measured on a GPU yet: the trainer's CUDA context; what an engine keeps while it
# sleeps (context, libraries, what its memory saver does not own); what it works with while awake.
TRAINER, SLEEPING, AWAKE = GIB, 3 * GIB // 2, 4 * GIB
KNOWN = Path(__file__).parents[1] / "presets" / "known_models.json"
CACHE_TOKENS_MIN = 32  # requests of full length that must fit, or decoding crawls


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """phases: name -> what -> bytes. host: bytes of host memory by rank. cache_tokens: of one
    engine. fits: every phase is within the GPU."""

    roles: Literal["two", "swap"]
    offload: bool
    phases: Mapping[str, Mapping[str, int]]
    gpu: int
    host: int
    cache_tokens: int

    @property
    def fits(self) -> bool:
        return self.peak <= self.gpu

    @property
    def peak(self) -> int:
        return max(sum(parts.values()) for parts in self.phases.values())


def plan_memory(
    peak: TrainingPeak,
    *,
    roles: Literal["two", "swap"],
    offload: bool,
    gpu: int,
    tp: int,
    cache_bytes: int,
    least: int,
    most: int,
    bucket: int,
    reference: bool,
    cold: bool = False,
    kept: bool = False,
) -> MemoryPlan:
    """The phases with one choice of engines and offload. cache_bytes: of a token, on one GPU; least
    and most: tokens of an engine's cache, which takes what is left. cold: whether the attacker's
    weights of round 0 are kept."""
    engines = 2 if roles == "two" else 1
    weights = engines * peak.parameters * 2 // tp  # bfloat16
    here = 0 if offload else 1
    resting = {
        "master weights, both players": 2 * peak.masters * here,
        "optimizer": peak.optimizer * here,
        "trainer's context": TRAINER,
    }
    awake = {"engine weights": weights, "engines at work": engines * AWAKE}
    token = engines * cache_bytes
    room = (gpu - sum(resting.values()) - sum(awake.values())) // token
    tokens = min(max(room, least), most)
    training = {
        "gradients": peak.gradients * here,
        "gathered, activations, head": peak.work + (peak.unit if offload else 0),
        "sleeping engines": engines * SLEEPING,
    }
    phases = {
        "rollout": resting | awake | {"engine cache": tokens * token},
        "train": resting | training,
        "sync": resting | awake | {"bucket, twice": 2 * bucket},
    }
    # The last good weights rest on the host, and the model of round 0, which is whole.
    host = peak.masters + 4 * peak.parameters
    host += 0 if here else 3 * peak.masters + peak.optimizer
    # A KL term's reference is loaded whole, beside round 0's, before it is sharded.
    host += 4 * peak.parameters if reference else 0
    host += peak.masters if cold else 0
    # Between two phases both players' moments are there, one set of which is counted with offload.
    host += (1 + here) * peak.optimizer if kept else 0
    return MemoryPlan(
        roles=roles, offload=offload, phases=phases, gpu=gpu, host=host, cache_tokens=tokens
    )


def memory_plan(config: Config) -> MemoryPlan | None:
    """The first of: two engines, one that swaps, each without and then with offload, that fits; the
    leanest where none does. None where no plan is needed, as on a CPU.

    Two engines let attack and reply stream into each other; one saves weights and cache.
    """
    engine, learn = config.engine, config.learn
    if config.model.defender is None or not engine_kind(config).needs_plan(config):
        return None
    model = model_config(config.model.defender)
    context = engine.context_length or CONTEXT
    check_replicas(learn.replicas, engine.gpus)
    peak = training_peak(model, learn, heaviest(config), context=context, world=engine.gpus)
    choices = itertools.product(
        {"auto": (False, True), "off": (False,), "on": (True,)}[learn.offload],
        ("two", "swap") if engine.roles == "auto" else (engine.roles,),
    )
    for offload, roles in choices:
        plan = plan_memory(
            peak,
            roles=roles,
            offload=offload,
            gpu=gpu_bytes(engine),
            tp=engine.tp,
            cache_bytes=cache_token_bytes(model.get_text_config().to_dict(), engine),
            most=engine.kv_tokens or engine.max_running * context,
            least=engine.kv_tokens or CACHE_TOKENS_MIN * context,
            bucket=engine.bucket_mb * 2**20,
            reference=any(p.loss.kl_coef for p in (config.attack, config.defend)),
            cold=config.attack.on_collapse == "fresh-start",
            kept=learn.keep_optimizer,
        )
        if plan.fits:
            break
    return plan


def heaviest(config: Config) -> GRPOConfig:
    """The phase whose rows take the most, with the largest `tokens_per_batch` of all phases."""
    phases = (config.attack, config.defend)
    heavier = max(phases, key=lambda phase: (phase.tokens_per_batch, phase.max_new_tokens))
    budget = max(heavier.tokens_per_batch, config.coldstart.tokens_per_batch)
    heavier = heavier.model_copy(update={"tokens_per_batch": budget})
    if any(phase.entropy_min for phase in phases):  # an entropy bonus may begin in any step
        bonus = heavier.loss.model_copy(update={"entropy_coef": heavier.entropy_most})
        heavier = heavier.model_copy(update={"loss": bonus})
    return heavier


def settled(config: Config) -> Config:
    """`config` with every choice made that `auto` leaves to the memory plan.

    UserError, before any model is loaded, where the plan is over the GPU's or the host's memory.
    """
    plan = memory_plan(config)
    if plan is None:
        return config
    if not plan.fits:
        name, parts = max(plan.phases.items(), key=lambda phase: sum(phase[1].values()))
        raise UserError(
            f"model.defender {config.model.defender}: found {sum(parts.values()) / GIB:.0f} GiB on"
            f" a GPU in its phase {name!r}, expected at most {plan.gpu / GIB:.0f} GiB; use more"
            " GPUs, less tokens_per_batch, or learn.lora_rank (--dry-run has the table)"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if plan.host * local > memory:
        raise UserError(
            f"learn.offload {'on' if plan.offload else 'off'}: found {plan.host * local / GIB:.0f}"
            f" GiB of host memory needed by {local} ranks, expected at most {memory / GIB:.0f} GiB;"
            " use a larger host, more of them, or learn.lora_rank"
        )
    learn = config.learn.model_copy(update={"offload": "on" if plan.offload else "off"})
    found = {"roles": plan.roles, "kv_tokens": plan.cache_tokens}
    engine = config.engine.model_copy(update=found)
    return config.model_copy(update={"learn": learn, "engine": engine})


def model_config(name: str) -> Any:
    """transformers' configuration of a model's folder, or of a known model by its name, which needs
    no download. UserError otherwise."""
    from transformers import AutoConfig

    if Path(name).is_dir():
        return configuration(Path(name), role="model.defender")
    known = json.loads(KNOWN.read_text())
    for start, values in known.items():
        if Path(name).name.lower().startswith(start):
            return AutoConfig.for_model(**values)
    raise UserError(
        f"model.defender {name}: found no config.json there, expected a model's folder"
        f" (or, for --dry-run, a name that begins with one of: {', '.join(sorted(known))});"
        " download the model and give its folder"
    )
