"""Stage 5: an engine beside the trainer on one card: start, draw, sleep, wake, push, and again."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from bench.gpu_check.check import Check, Row, judged, short
from bench.gpu_check.qwen import QwenScene
from sectow_fast.config import Config
from sectow_fast.engine.kinds import EngineSetup
from sectow_fast.engine.protocol import Engine
from sectow_fast.engine.reference import MEAN_SHARE, TOLERANCE, plain_logprobs
from sectow_fast.engine.registry import engine_kind
from sectow_fast.types import Completion, Prompt, Sampling, UserError

GIB = 2**30
GROWTH_MIB = 64  # over the rounds after the second one, more than which is called growth
STARTED, PUSHED = "log-probs, weights as started", "log-probs, after the push"
Drawn = Sequence[tuple[Prompt, Completion]]


def settings(check: Check) -> dict[str, Any]:
    """The `engine` section: SGLang where it is installed. A rehearsal without it, and no card's
    run, draws in the trainer's process."""
    kind = "sglang" if importlib.util.find_spec("sglang") or not check.rehearse else "torch"
    return {
        "kind": kind,
        "device": check.device.name,
        "dtype": check.device.precision,
        "roles": "swap",
        "context_length": 4096 if check.device.name == "cuda" else 512,
        "max_running": 64,
        "attention": check.attention,
        # The mismatch is measured and judged here, so that it is known where a run would stop.
        "logprob_tolerance": 10.0,
    }


def run(check: Check) -> Iterator[Row]:
    """A row per part; the first says which engine it was. Failed, after all rows, where one is not
    what a sound engine gives."""
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
        write_folder=scene.describe,
    )
    engines = kind.make(setup)
    try:
        parts = _parts(check, scene, engines.of("defender", model), model, codec, prompts)
        yield from judged(parts, partial(faults, dtype=check.device.precision))
    finally:
        engines.close()


def faults(rows: Sequence[Row], dtype: str) -> list[str]:
    """What is wrong in these rows. Log-probs of the trainer's own weights have the bounds of
    `engine.reference`, those of other weights none."""
    most, wrong = TOLERANCE[dtype], []
    for row in rows:
        if row["name"] in (STARTED, PUSHED) and not (
            row["p99"] <= most and row["mean"] <= MEAN_SHARE * most
        ):
            wrong.append(
                f"{row['name']}: found a mean of {row['mean']} and a p99 of {row['p99']}, expected"
                f" at most {MEAN_SHARE * most:.3g} and {most:.3g}"
            )
        if row.get("growth_mib", 0.0) > GROWTH_MIB:
            wrong.append(f"{row['name']}: memory grew by {row['growth_mib']:.0f} MiB")
    return wrong


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
    yield mismatch(STARTED, drawn)
    changed(model)
    yield mismatch("log-probs, old draws under changed weights", drawn)
    engine.sync(model)
    took = device.seconds(engine.wake)
    speed = short(size / took / 1e9)
    yield {"name": "push of all weights", "seconds": round(took, 4), "gb_per_s": speed}
    yield mismatch(PUSHED, draw())
    awake = device.used()
    took = device.seconds(engine.sleep)
    asleep = device.used()
    yield {"name": "sleep", "seconds": round(took, 4), "gib": round((asleep - awake) / GIB, 3)}
    took = device.seconds(engine.wake)
    taken = round((device.used() - asleep) / GIB, 3)
    yield {"name": "wake, weights included", "seconds": round(took, 4), "gib": taken}
    yield from _again(check, engine, model, draw)


def _again(check: Check, engine: Engine, model: Any, draw: Any) -> Iterator[Row]:
    """Memory that is held while the engine sleeps, round after round; median seconds."""
    device = check.device
    held: list[int] = []
    seconds: list[float] = []

    def one_round() -> None:
        changed(model)
        engine.sync(model)
        draw()
        engine.sleep()

    for _ in range(check.sizes.syncs):
        seconds.append(device.seconds(one_round))
        device.empty()
        held.append(device.used())
    yield {
        "name": f"{len(held)} rounds in a row",
        "seconds": round(statistics.median(seconds), 3),
        "gib": round(held[-1] / GIB, 3),
        "growth_mib": round((held[-1] - held[1]) / 2**20, 1),
        "held_mib": [round(one / 2**20, 1) for one in held],
    }


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
