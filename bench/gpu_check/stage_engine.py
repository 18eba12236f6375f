"""Stage 5: an engine beside the trainer on one card: start, draw, sleep, wake, push, and again."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bench.gpu_check.check import Check, Failed, Row, short
from bench.gpu_check.qwen import QwenScene
from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.protocol import Engine
from sectow_fast.engine.reference import plain_logprobs
from sectow_fast.engine.registry import engine_kind
from sectow_fast.types import Completion, Prompt, Sampling, UserError

GIB = 2**30
GROWTH = 64 * 2**20  # bytes over the rounds after the second one that are called growth
Drawn = Sequence[tuple[Prompt, Completion]]


def settings(check: Check) -> dict[str, Any]:
    """The `engine` section: SGLang where it is installed. A rehearsal without it, and no card's
    run, draws in the trainer's process."""
    kind = "sglang" if importlib.util.find_spec("sglang") or not check.rehearse else "torch"
    return {
        "kind": kind,
        "device": check.device.name,
        "dtype": "bfloat16" if check.device.name == "cuda" else "float32",
        "roles": "swap",
        "context_length": 4096 if check.device.name == "cuda" else 512,
        "max_running": 64,
        "attention": check.attention,
        # The mismatch is measured here, so that it is known even where a run would stop.
        "logprob_tolerance": 10.0,
    }


def run(check: Check) -> Iterator[Row]:
    """A row per part; a rehearsal or a card without SGLang says which engine it was."""
    config = Config(engine=settings(check))
    scene = check.scene(check.sizes.drawn[0], drawn=True)
    model = scene.model()
    codec = scene.codec(scene.pictures())
    prompts = codec.encode(scene.cases)
    kind = engine_kind(config)
    kind.check(config, 1)
    setup = EngineSetup(
        config=config,
        codec=codec,
        folder=check.scratch / "engine",
        write_folder=lambda folder: scene.save(model, folder),
    )
    engines = kind.make(setup)
    try:
        yield from _parts(check, scene, engines.of("defender", model), model, codec, prompts)
    finally:
        engines.close()


def _parts(
    check: Check,
    scene: QwenScene,
    engine: Engine,
    model: Any,
    codec: Any,
    prompts: Sequence[Prompt],
) -> Iterator[Row]:
    device = check.device

    def draw() -> list[tuple[Prompt, Completion]]:
        sampling = Sampling(max_new_tokens=scene.completion)
        groups = engine.generate(prompts, n=scene.group_size, sampling=sampling, seed="check")
        return [(p, one) for p, group in zip(prompts, groups, strict=True) for one in group]

    def mismatch(name: str, drawn: Drawn) -> Row:
        return {"name": name, **gaps(model, codec, drawn)}

    size = sum(p.numel() * device.dtype.itemsize for p in model.parameters())
    before = device.used()
    started = device.seconds(draw)
    taken = device.used() - before
    name = f"{type(engine).__name__}: start and first tokens"
    yield {"name": name, "seconds": round(started, 3), "gib": round(taken / GIB, 3)}
    drawn: list[tuple[Prompt, Completion]] = []
    took = device.seconds(lambda: drawn.extend(draw()))
    tokens = sum(len(one.ids) for _, one in drawn)
    yield {"name": "draw", "seconds": round(took, 3), "tokens/s": round(tokens / took)}
    yield mismatch("log-probs, weights as started", drawn)
    changed(model)
    yield mismatch("log-probs, old draws under changed weights", drawn)
    engine.sync(model)
    took = device.seconds(engine.wake)
    speed = short(size / took / 1e9)
    yield {"name": "push of all weights", "seconds": round(took, 4), "gb_per_s": speed}
    yield mismatch("log-probs, after the push", draw())
    awake = device.used()
    took = device.seconds(engine.sleep)
    freed = round((awake - device.used()) / GIB, 3)
    yield {"name": "sleep", "seconds": round(took, 4), "gib": -freed}
    took = device.seconds(engine.wake)
    yield {"name": "wake, weights included", "seconds": round(took, 4), "gib": freed}
    yield from _again(check, engine, model, draw)


def _again(check: Check, engine: Engine, model: Any, draw: Any) -> Iterator[Row]:
    """Memory that is held while the engine sleeps, round after round."""
    device, held = check.device, []

    def one_round() -> None:
        changed(model)
        engine.sync(model)
        draw()
        engine.sleep()

    for _ in range(check.sizes.syncs):
        took = device.seconds(one_round)
        device.empty()
        held.append(device.used())
    growth = held[-1] - held[1]
    yield {
        "name": f"{len(held)} rounds in a row",
        "seconds": round(took, 3),
        "gib": round(held[-1] / GIB, 3),
        "growth_mib": round(growth / 2**20, 1),
        "held_mib": [round(one / 2**20, 1) for one in held],
    }
    if growth > GROWTH:
        raise Failed(f"memory grew by {growth / 2**20:.0f} MiB over {len(held)} rounds")


@torch.no_grad()
def changed(model: Any) -> None:
    """Move every weight so far that log-probs show it."""
    for parameter in model.parameters():
        parameter.mul_(1.02)


def gaps(model: Any, codec: Any, drawn: Drawn) -> dict[str, float]:
    """Differences of the engine's log-probs from the trainer's: mean, 99th percentile, largest, and
    the k3 estimate of KL(engine || trainer) per token."""
    found = []
    for prompt, one in drawn:
        if not one.ids:
            raise UserError(f"case {prompt.case_id!r}: found an empty completion, expected tokens")
        ours = plain_logprobs(model, codec, prompt, one.ids, 1.0)
        found.append(torch.tensor(one.logprobs) - ours)
    gap = torch.cat(found).double()
    values = {
        "mean": gap.abs().mean(),
        "p99": gap.abs().quantile(0.99),
        "largest": gap.abs().max(),
        "kl": (torch.exp(-gap) - 1 + gap).mean(),
    }
    return {name: short(value.item()) for name, value in values.items()}
