"""One shape measured: every contender in turn in one process, and the memory of each alone."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import resident_mib
from scene import Scene
from training_contenders import Update, same


def trl_update(scene: Scene, hand_over: Any, folder: str, steps: int) -> Any:
    """TRL's trainer on the scene's own completions; `train()` makes `steps` steps."""
    from peer import make_trainer
    from transformers import PrinterCallback

    prompts = scene.codec(scene.pictures()).encode(scene.cases)
    fits = scene.tokens_per_batch // (scene.prompt + scene.completion)
    divisors = [n for n in range(1, scene.completions + 1) if scene.completions % n == 0]
    trainer, between = make_trainer(
        scene,
        scene.model(),
        Path(folder),
        hand_over,
        steps=steps,
        micro_batch=max(n for n in divisors if n <= max(1, fits)),
        cpu=scene.device == "cpu",
    )
    groups = scene.groups(prompts)
    trainer.replies = [list(one.ids) for group in groups for one in group.completions]
    trainer.remove_callback(PrinterCallback)  # it would break pytest's lines
    return trainer, between


def timed(scene: Scene, repeats: int, backends: Sequence[str], trl: bool) -> dict[str, float]:
    """Seconds per update by contender: medians over `repeats` rounds, in each of which all take a
    turn. One more round before them is not counted, and checks that all make the same update."""
    torch.set_num_threads(1)
    names = [f"shared, {one}" for one in backends] if len(backends) > 1 else ["shared"]
    updates = {
        name: Update(scene, "shared", backend=backend)
        for name, backend in zip(names, backends, strict=True)
    }
    updates |= {name: Update(scene, name, backend=backends[0]) for name in ("unshared", "padded")}
    seconds: dict[str, list[float]] = {name: [] for name in updates}

    def turn(keep: bool = False) -> None:
        for name, update in updates.items():
            begin = scene.clock()
            update(keep=keep)
            seconds[name].append(scene.clock() - begin)

    def hand_over(theirs: dict[str, float]) -> None:
        first = not seconds["padded"]
        seconds.setdefault("trl", []).append(theirs["train"])
        turn(keep=first)

    with TemporaryDirectory() as folder:
        if trl:
            trainer, between = trl_update(scene, hand_over, folder, repeats + 1)
            trainer.train()
        else:
            for number in range(repeats + 1):
                turn(keep=number == 0)
    wanted = updates["padded"].gradients
    for name, update in updates.items():
        same(update.gradients, wanted, name)
    if trl:
        same(between.gradients, wanted, "trl")
    return {name: round(statistics.median(one[1:]), 4) for name, one in seconds.items()}


def peak_mib(scene: Scene, name: str) -> float:
    """The most that an update takes beyond what the process holds before it: activations,
    gradients, temporaries. To be called in a fresh process.
    """
    torch.set_num_threads(1)
    meter = Meter(scene.device)
    if name == "trl":
        with TemporaryDirectory() as folder:
            trl_update(scene, lambda _: meter.turn(), folder, 2)[0].train()
    else:
        update = Update(scene, name)
        for _ in range(2):
            update()
            meter.turn()
    # The first step brought in libraries and the optimizer's state.
    return round(meter.found[-1], 1)


class Meter:
    """`turn` ends one measurement (to `found`, MiB) and begins the next."""

    def __init__(self, device: str) -> None:
        self.cuda, self.before = device != "cpu", 0.0
        self.found: list[float] = []

    def turn(self) -> None:
        if self.cuda:
            self.found.append(torch.cuda.max_memory_allocated() / 2**20 - self.before)
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
            return
        self.found.append(resident_mib("VmHWM") - self.before)
        # Freed pages that the C library still holds would hide what the next step takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.before = resident_mib("VmRSS")
