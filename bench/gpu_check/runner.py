"""Each stage in a process of its own, ended with all its children when its time is over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.gpu_check import results
from bench.gpu_check.check import Check, Row, Stage
from bench.gpu_check.machine import Card

# Imported once, before a card is touched, and then there in every stage.
PRELOAD = ["transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "bench.gpu_check.stages"]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """check: what stages are given. code: digest of the sources. again: redo what is done. factor:
    of every limit."""

    check: Check
    card: Card
    code: str
    again: bool = False
    factor: float = 1.0

    def write(self, stage: Stage, rows: list[Row], state: str, begin: float, why: str = "") -> None:
        results.write(
            self.check.results,
            stage.name,
            rows,
            card=self.card,
            state=state,
            why=why,
            code=self.code,
            rehearsal=self.check.rehearse,
            seconds=round(time.time() - begin, 1),
            limit=stage.limit * self.factor,
        )


def run_all(run: Run, stages: Iterable[Stage], say: Say) -> dict[str, str]:
    """State by stage: finished, failed, timed out, died, or skipped. A stage that fails stops no
    other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    states: dict[str, str] = {}
    for stage in stages:
        if not run.again and results.is_done(
            run.check.results, stage.name, card=run.card, code=run.code
        ):
            states[stage.name] = "skipped"
            say(f"{stage.name}: skipped, finished before for this code and card (--again redoes)")
            continue
        say(f"{stage.name}: {stage.what}; at most {stage.limit * run.factor:.0f} s")
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
        child.join(stage.limit * run.factor)
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
    """The stage itself, as the leader of a process group; all output goes to STAGE.log."""
    os.setpgid(0, 0)
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
