"""Stage 6: `python -m sectow_fast.train` plays one round with the preset for one card."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import layouts

from bench.gpu_check import ROOT, stage_ceilings, stage_engine
from bench.gpu_check.check import Check, Failed, Row, short
from bench.gpu_check.forks import forked
from bench.gpu_check.qwen import TOKEN, QwenScene, Shape
from bench.gpu_check.results import read
from sectow_fast.data.sandbox import layouts as published

STEPS = 3  # of each phase; the first one warms up and is not counted
NOISE = Path(__file__).with_name("noise.py")
SUITES = {"or-bench": layouts.or_bench, "xstest": layouts.xstest}


def run(check: Check) -> Iterator[Row]:
    """A row for each training phase: seconds by part of a step, tokens per second, and MFU."""
    scene = check.scene(check.sizes.drawn[0], drawn=True)
    folder, out = check.scratch / "model", check.scratch / "run"
    scene.save(scene.model(), folder)
    check.device.empty()
    data = _suites(check.scratch / "suites", scene)
    if code := _train(check, _arguments(check, folder, data, out)):
        raise Failed(f"sectow_fast.train ended with {code}, expected 0; round.log has its words")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    yield from phases(
        [json.loads(line) for line in lines],
        shape=scene.shape,
        ceiling=_ceiling(check),
    )


def _train(check: Check, arguments: Sequence[str]) -> int | None:
    """Exit code of `python -m sectow_fast.train`. A rehearsal saves the time of its imports."""
    if check.rehearse:
        return forked("sectow_fast.train", arguments)
    return subprocess.run(
        [sys.executable, "-m", "sectow_fast.train", *arguments], cwd=ROOT
    ).returncode


def _arguments(check: Check, model: Path, data: Mapping[str, Path], out: Path) -> list[str]:
    group, tokens = check.sizes.drawn
    flags: dict[str, Any] = {
        "out": out,
        "rounds": 1,
        "plugins": NOISE,
        "model.defender": model,
        "data.unsafe": f"jailbreakv={data['jailbreakv']}",
        "data.harmless": f"or-bench:80k={data['or-bench']}",
        "data.judge": "rule-knowingly",
        "data.test": f"xstest={data['xstest']}",
        "coldstart.attacker_steps": 1,
        "coldstart.batch": 2,
        "harvest.attacks": 4,
        "evaluate.attacker_cases": 2,
        "learn.dtype": check.device.precision,
    }
    for phase in ("attack", "defend"):
        flags |= {
            f"{phase}.steps": STEPS,
            f"{phase}.prompts": check.sizes.prompts,
            f"{phase}.group_size": group,
            f"{phase}.max_new_tokens": tokens,
            f"{phase}.tokens_per_batch": check.sizes.round_budget,
            f"{phase}.terms.noise": 1.0,
        }
    engine = stage_engine.settings(check)
    flags |= {f"engine.{name}": value for name, value in engine.items() if value is not None}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return ["--preset", "qwen2.5-vl-3b-1gpu", "--plain", *words]


def _suites(folder: Path, scene: QwenScene) -> dict[str, Path]:
    """Toy suites in the published layouts, with pictures of the scene's size."""
    side = (scene.edge * TOKEN,) * 2
    rows = [dataclasses.replace(row, picture=row.picture.resize(side)) for row in layouts.rows(8)]
    published.write_jailbreakv(folder / "jailbreakv", rows)
    for name, write in SUITES.items():
        write(folder / name)
    return {name: folder / name for name in ("jailbreakv", *SUITES)}


def _ceiling(check: Check) -> float | None:
    """Operations per second of stage 2 on this card, where it was measured."""
    kept = read(check.results, "ceilings")
    if kept.get("rehearsal") is not check.rehearse:
        return None
    found = [row["tflop_per_s"] for row in kept["rows"] if row["name"] == stage_ceilings.PRODUCT]
    return found[0] * 1e12 if found else None


def phases(
    rows: Sequence[Mapping[str, Any]], *, shape: Shape, ceiling: float | None
) -> Iterator[Row]:
    """Medians over the steps of each phase but its first. `train_s` holds the update, and also the
    engine's sleep before it and the push of the weights after it, as `learn.phase` times them. MFU
    is of `train_s`. It counts 6 operations per token and weight of the decoder and the head, and
    none for what is computed a second time.

    Failed where none of these steps trained."""
    weights = decoder_weights(shape)
    for phase in ("attack", "defend"):
        steps = [row for row in rows if row.get("phase") == phase and "tokens_trained" in row][1:]
        seconds: dict[str, list[float]] = {}
        for step in steps:
            for part, value in step["seconds"].items():
                seconds.setdefault(part, []).append(value)
        medians = {part: statistics.median(values) for part, values in seconds.items()}
        trained = [step for step in steps if step["tokens_trained"]]
        row: Row = {"name": phase, "steps": len(steps), "trained": len(trained)}
        row |= {f"{part}_s": round(value, 4) for part, value in medians.items()}
        if trained:
            tokens = statistics.median(step["tokens_trained"] for step in trained)
            whole = sum(medians.values())
            row["tokens/s"] = round(tokens / whole)
            row["mismatch_kl"] = max(step["mismatch_kl"] for step in trained)
            if ceiling:
                row["mfu"] = short(6 * weights * tokens / medians["train"] / ceiling)
        yield row
        if not trained:
            raise Failed(
                f"{phase}: found {len(steps)} steps after the first, none of which trained,"
                f" expected {STEPS - 1} that did; round.log has the run's words"
            )


def decoder_weights(shape: Shape) -> int:
    """Elements of the decoder's matrices and of the head."""
    head = shape.hidden // shape.heads
    attention = 2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.kv_heads * head
    return (
        shape.layers * (attention + 3 * shape.hidden * shape.inner)
        + shape.vocabulary * shape.hidden
    )
