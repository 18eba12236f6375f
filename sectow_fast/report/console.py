"""What a run shows while it runs: a live panel in a terminal, single lines in a log file.

A call of `step` only stores the record (tens of microseconds). Rich's refresh thread draws it, at
most four times per second. No words of an attack come here. Everything shown is stripped of control
characters: a model's words must not be able to steer a terminal.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sectow_fast.records import StepRecord
from sectow_fast.report.rundata import (
    PHASE_NAMES,
    attackers,
    clock,
    current_success,
    leaks,
    percent,
    suite_names,
)
from sectow_fast.rounds import NO_RATE, RoundRecord
from sectow_fast.types import Event

PLAIN_EVERY = 10.0  # seconds between two lines of one phase where there is no terminal
REFRESH = 4  # drawings per second, at most
ROUNDS_SHOWN = 8


def visible(text: str) -> str:
    """`text` on one line with control characters (escapes too) shown as a middle dot."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "·" for c in text)


def thousands(value: float) -> str:
    """A count per second: 9000 -> "9.0k"."""
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


@dataclass(kw_only=True)
class Progress:
    """Where a phase stands. Times are of the monotonic clock, in seconds."""

    where: str
    steps: int  # how many the phase has
    began: float
    last_step: float
    last_line: float
    pace: float = math.nan  # seconds per step, a running mean
    first_reward: float = math.nan
    seen: int = 0
    record: StepRecord | None = None  # the latest

    def advance(self, record: StepRecord, now: float) -> None:
        """Take in a step that ended at `now`."""
        gap = now - self.last_step
        # A running mean over about ten steps: the pace changes as groups go dead.
        self.pace = gap if math.isnan(self.pace) else 0.9 * self.pace + 0.1 * gap
        self.seen, self.record, self.last_step = self.seen + 1, record, now
        if self.seen == 1:
            self.first_reward = self.reward

    @property
    def done(self) -> int:
        """Steps that are behind us, those before a resumption too."""
        return self.record.step + 1 if self.record else 0

    @property
    def reward(self) -> float:
        return self.record.reward.get("total", math.nan) if self.record else math.nan

    def line(self) -> str:
        """Step, reward, loss, speed and the time that is left, on one line."""
        text = f"step {self.done}/{self.steps}"
        measures = self.record.measures if self.record else {}
        for name, value in (("reward", self.reward), ("loss", measures.get("loss", math.nan))):
            text += f"  {name} {value:.3f}" if math.isfinite(value) else ""
        if "tokens_per_second" in measures:
            text += f"  {thousands(measures['tokens_per_second'])} tok/s"
        return text + f"  ETA {clock(self.pace * (self.steps - self.done))}"

    def end_line(self, now: float, *, cut: bool) -> str:
        """How the phase went. cut: it was stopped before its end."""
        text = f"{self.where} {'stopped' if cut else 'done'} in {clock(now - self.began)}"
        text += f", {self.seen} steps" if self.seen else ""
        if math.isfinite(self.first_reward) and math.isfinite(self.reward):
            text += f", reward {self.first_reward:.3f} -> {self.reward:.3f}"
        return text


class LiveConsole:
    """The run as it happens. Use as a context manager.

    `rounds` is how many there will be, `attacks` what the share of successful attacks is called.
    `plain=None` asks the stream: where it is no terminal, plain lines are printed. They are the
    starts and ends of phases, rounds, events and notes, and a line of progress every PLAIN_EVERY
    seconds.
    """

    def __init__(
        self,
        title: str,
        rounds: int,
        plain: bool | None = None,
        *,
        attacks: str = "ASR",
        console: Console | None = None,
    ) -> None:
        self.title, self.rounds, self.attacks = visible(title), rounds, attacks
        self._console = console or Console(file=sys.stdout)
        self.plain = not self._console.is_terminal if plain is None else plain
        self._start = time.monotonic()
        self._phase: Progress | None = None
        self._done: list[RoundRecord] = []
        self._tail: deque[tuple[str, str]] = deque(maxlen=5)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if self.plain:
            self._line(f"{self.title}: {self.rounds} rounds")
        else:
            self._live = Live(
                get_renderable=self._draw, console=self._console, refresh_per_second=REFRESH
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_phase(cut=kind is not None)
        if self._live is not None:
            self._live.stop()
            self._live = None

    # What the run tells us

    def phase(self, round: int, name: str, steps: int) -> None:
        """A phase begins. steps: how many it will take, 1 where they are not counted."""
        self._end_phase()
        where = PHASE_NAMES.get(name, name)
        where = f"round {round}/{self.rounds} {where}" if round else where
        now = time.monotonic()
        self._phase = Progress(where=where, steps=steps, began=now, last_step=now, last_line=now)
        if self.plain:
            self._line(f"{where} started" + (f", {steps} steps" if steps > 1 else ""))

    def step(self, record: StepRecord) -> None:
        """A step of the present phase has ended. Cheap: it is stored, and drawn later."""
        phase, now = self._phase, time.monotonic()
        if phase is None:
            return
        phase.advance(record, now)
        if self.plain and now - phase.last_line >= PLAIN_EVERY:
            phase.last_line = now
            self._line(f"{phase.where} {phase.line()}")

    def event(self, event: Event) -> None:
        """Something a monitor saw or did."""
        phase = PHASE_NAMES.get(event.phase, event.phase)
        self._say(event.kind, f"round {event.round} {phase} step {event.step}: {event.message}")

    def note(self, text: str) -> None:
        """A line of news."""
        self._say("", text)

    def round_done(self, record: RoundRecord) -> None:
        """A round was measured."""
        self._end_phase()
        # A new list, not an append: the drawing thread may be reading the old one.
        self._done = [*self._done, record]
        if self.plain:
            self._line(self._round_line(record))

    # How it is shown

    def _end_phase(self, cut: bool = False) -> None:
        if self.plain and self._phase is not None:
            self._line(self._phase.end_line(time.monotonic(), cut=cut))
        self._phase = None

    def _round_line(self, record: RoundRecord) -> str:
        rates = record.rates["asr"]
        suites = [f"{n} {percent(rate.value)}" for n, rate in rates.items() if n != "mean"]
        text = f"round {record.round}/{self.rounds}: {self.attacks} "
        text += percent(record.mean("asr").value)
        text += f" ({', '.join(suites)})" if suites else ""
        text += f", ORR {percent(record.mean('orr').value)}"
        text += f", accuracy {percent(record.mean('accuracy').value)}"
        if record.leak is not None:
            text += f", chance of harm {percent(record.leak.mean.value, 2)}"
            text += f" (worst on an object {percent(record.leak.worst_median.value)})"
        if (tried := current_success(record)).n:
            text += f", attacker succeeds {percent(tried.value)}"
        if record.harvest:
            text += f", kept {record.harvest.kept}, queries {sum(record.queries.values()):,}"
        return text

    def _say(self, kind: str, text: str) -> None:
        if self.plain:
            self._line(f"{kind}: {text}" if kind else text)
        else:
            self._tail.append((visible(kind), visible(text)))

    def _line(self, text: str) -> None:
        stamp = clock(time.monotonic() - self._start)
        print(f"[{stamp:>5}] {visible(text)}", file=self._console.file, flush=True)

    def _draw(self) -> Panel:
        phase = self._phase  # read once: the run may go on to the next one meanwhile
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right")
        spent = clock(time.monotonic() - self._start)
        where = phase.where if phase else "between phases"
        grid.add_row(Text(visible(where), style="bold"), f"elapsed {spent}")
        parts: list[RenderableType] = [grid]
        if phase is not None and phase.seen:
            grid.add_row(Text(phase.line()), "")
        if phase is not None:
            bar = Table.grid(expand=True)  # a bare ProgressBar in a Group does not end its line
            bar.add_row(ProgressBar(total=phase.steps, completed=min(phase.done, phase.steps)))
            parts.append(bar)
        if self._done:
            parts += [Text(), self._table(), Text()]
        for kind, text in list(self._tail):
            parts.append(Text.assemble((f"{kind} " if kind else "", "yellow"), text))
        return Panel(Group(*parts), title=Text(self.title), border_style="dim", padding=(0, 1))

    def _table(self) -> Table:
        """Rounds so far; suites and queries only where the terminal has room for them."""
        done = self._done
        names = suite_names(done, "asr")
        leak = ["harm"] if leaks(done) else []
        room = 71 + len(self.attacks) - len("ASR")
        wide = room + 9 * len(leak) + sum(max(len(name), 6) + 3 for name in names)
        if self._console.width < wide:
            names = []
        queries = ["queries"] if self._console.width >= room else []
        shown = ("round", f"mean {self.attacks}", *names, *leak)
        heads = (*shown, "ORR", "accuracy", "kept", *queries, "attacker")
        table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
        for head in heads:
            table.add_column(Text(visible(head)), justify="right", no_wrap=True)
        for record in done[-ROUNDS_SHOWN:]:
            suites = [record.rates["asr"].get(name, NO_RATE) for name in names]
            means = [record.mean("orr"), record.mean("accuracy")]
            shown = [record.mean("asr"), *suites]
            if leak:
                shown.append(record.leak.mean if record.leak else NO_RATE)
            table.add_row(
                str(record.round),
                *(percent(rate.value) for rate in (*shown, *means)),
                str(record.harvest.kept) if record.harvest else "–",
                *(f"{sum(record.queries.values()):,}" if record.harvest else "–" for _ in queries),
                percent(current_success(record).value),
            )
        found = attackers(done)
        if found and math.isfinite(found.ratio):
            table.caption = f"trained attacker {found.ratio:.1f}x self-instruct"
        return table
