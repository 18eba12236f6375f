"""Each stage in a process of its own, ended with all its children when its time is over."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import record
import torch

from bench.gpu_check import results
from bench.gpu_check.check import Check, Row, Stage
from bench.gpu_check.machine import Card

# Imported once, before a card is touched, and then there in every stage.
PRELOAD = ["transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "bench.gpu_check.stages"]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """check: what stages are given. code: digest of the sources. again: redo what is done."""

    check: Check
    card: Card
    code: str
    again: bool = False

    @property
    def decides(self) -> dict[str, Any]:
        """What a figure depends on: with another of these it is another figure."""
        return {
            "card": self.card.name,
            "driver": self.card.driver,
            "code": self.code,
            "attention": self.check.attention,
            "versions": record.versions(),
        }

    def is_done(self, stage: Stage) -> bool:
        """Whether this stage need not be played again."""
        return not self.again and results.is_done(self.check.results, stage.name, self.decides)

    def write(self, stage: Stage, rows: list[Row], state: str, begin: float, why: str = "") -> None:
        record.write(
            self.check.results,
            stage.name,
            rows,
            stage=stage.name,
            state=state,
            why=why,
            rehearsal=self.check.rehearse,
            seconds=round(time.time() - begin, 1),
            limit=stage.limit,
            **self.decides,
        )


def run_all(run: Run, stages: Iterable[Stage], say: Say) -> dict[str, str]:
    """State by stage: finished, failed, timed out, died, or skipped. A stage that fails stops no
    other. Stages are forks of Python's forkserver; one that runs already is taken as it is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    states: dict[str, str] = {}
    for stage in stages:
        if run.is_done(stage):
            states[stage.name] = "skipped"
            say(
                f"{stage.name}: skipped, finished before with this code, card, driver, attention"
                " backend and versions (--again redoes it)"
            )
            continue
        say(f"{stage.name}: {stage.what}; at most {stage.limit} s")
        begin = time.time()
        states[stage.name] = state = _one(run, stage, context)
        say(f"{stage.name}: {state} after {time.time() - begin:.1f} s")
    return states


def _one(run: Run, stage: Stage, context: Any) -> str:
    begin = time.time()
    run.write(stage, [], "running", begin)
    child = context.Process(target=work, args=(run, stage))
    child.start()
    try:
        child.join(stage.limit)
        over = child.is_alive()
    finally:
        # Also where it ended by itself: what it started and left behind must not hold the card.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.join()
    found = results.read(run.check.results, stage.name)
    if over or found["state"] == "running":
        state = "timed out" if over else "died"
        why = "its time was over" if over else f"its process ended with {child.exitcode}"
        run.write(stage, found["rows"], state, begin, why)
        return state
    return found["state"]


def work(run: Run, stage: Stage) -> None:
    """The stage itself, as the leader of a process group; all output goes to STAGE.log. A rehearsal
    sees no card and has one thread, so it is the same on every machine."""
    os.setpgid(0, 0)
    if run.check.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
    gc.freeze()  # of the libraries nothing is ever given back: `Device.empty` need not look there
    log = os.open(
        run.check.results / f"{stage.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644
    )
    for number in (1, 2):
        os.dup2(log, number)
    rows: list[Row] = []
    begin, state, why = time.time(), results.FINISHED, ""
    try:
        for row in stage.run(run.check):
            rows.append(row)
            print(row, flush=True)
            run.write(stage, rows, "running", begin)
    except Exception as error:
        traceback.print_exc()
        state, why = "failed", f"{type(error).__name__}: {error}"
    run.write(stage, rows, state, begin, why)
    sys.stdout.flush()
