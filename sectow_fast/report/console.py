"""What a run shows while it runs: a live panel in a terminal, single lines in a log file.

A call of `step` only stores the row (tens of microseconds); drawing happens in Rich's refresh
thread at most four times a second. Attack words reach the console through `note(attack=...)` only,
and are replaced by their length unless `reveal` is set. Everything shown is stripped of control
characters: a model's words must not be able to steer a terminal.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sectow_fast.report.rundata import (
    PHASE_NAMES,
    attacker_ratio,
    clock,
    mean,
    number,
    percent,
    rates,
    suite_names,
)
from sectow_fast.types import Event

PLAIN_EVERY = 10.0  # seconds between two lines of one phase where there is no terminal
REFRESH = 4  # drawings a second, at most


def visible(text: Any) -> str:
    """`text` on one line with control characters (escapes too) shown as a middle dot."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "·" for c in str(text))


def event_fields(event: Event | Mapping[str, Any]) -> dict[str, Any]:
    """An event, or the dict that is logged of it, as a dict."""
    if isinstance(event, Event):
        names = ("kind", "message", "round", "phase", "step", "values")
        return {name: getattr(event, name) for name in names}
    inner = event.get("event", event)
    return dict(inner) if isinstance(inner, Mapping) else {"kind": "event", "message": inner}


def short(value: float, digits: int = 3) -> str:
    """A number for a header; a dash where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def thousands(value: float) -> str:
    """A count a second: 9000 -> "9.0k"."""
    if not math.isfinite(value):
        return "–"
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


class LiveConsole:
    """The run as it happens. Use as a context manager.

    `rounds` is K. `plain=None` asks the stream: no terminal means plain lines, at most one every
    PLAIN_EVERY seconds a phase, besides the ends of phases, rounds and events.
    """

    def __init__(
        self,
        title: str,
        rounds: int,
        reveal: bool = False,
        plain: bool | None = None,
        *,
        console: Console | None = None,
    ) -> None:
        self.title, self.rounds, self.reveal = visible(title), rounds, reveal
        self._console = console or Console(file=sys.stdout)
        self.plain = not self._console.is_terminal if plain is None else plain
        self._start = self._phase_start = self._last_step = self._last_line = time.monotonic()
        self._round = self._step = self._steps = self._seen = 0
        self._name, self._pace = "", math.nan
        self._row: Mapping[str, Any] = {}
        self._first: float = math.nan
        self._done: list[Mapping[str, Any]] = []
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
        """A phase begins: `steps` is how many it will take (0 or 1 where they are not counted)."""
        self._end_phase()
        self._round, self._name, self._steps = round, name, steps
        self._step = self._seen = 0
        self._row, self._pace, self._first = {}, math.nan, math.nan
        self._phase_start = self._last_step = self._last_line = time.monotonic()
        if self.plain:
            self._line(f"{self._where()} started" + (f", {steps} steps" if steps > 1 else ""))

    def step(self, row: Mapping[str, Any]) -> None:
        """One row of the metrics log. Cheap: it is stored, and drawn later."""
        now = time.monotonic()
        self._seen += 1
        self._step = int(row.get("step") or self._seen)
        self._row = row
        if self._seen == 1:
            self._first = self._reward()
        gap = now - self._last_step
        # A running mean over about ten steps: the pace changes as groups go dead.
        self._pace = gap if math.isnan(self._pace) else 0.9 * self._pace + 0.1 * gap
        self._last_step = now
        if self.plain and now - self._last_line >= PLAIN_EVERY:
            self._last_line = now
            self._line(f"{self._where()} {self._progress()}")

    def event(self, event: Event | Mapping[str, Any]) -> None:
        """Something a monitor saw or did."""
        found = event_fields(event)
        where = f"round {found.get('round', self._round)} {found.get('phase', self._name)}"
        text = f"{where} step {found.get('step', self._step)}: {found.get('message', '')}"
        self._say(str(found.get("kind", "event")), text)

    def note(self, text: str, attack: str | None = None) -> None:
        """A line of news. `attack` is a model's words: shown only with `reveal`."""
        if attack is not None:
            words = f"“{attack}”" if self.reveal else f"[{len(attack.split())} words hidden]"
            text = f"{text} {words}"
        self._say("", text)

    def round_done(self, round_summary: Mapping[str, Any]) -> None:
        """A round was evaluated: its entry of summary.json."""
        self._end_phase()
        # A new list, not an append: the drawing thread may be reading the old one.
        self._done = [*self._done, round_summary]
        if self.plain:
            self._line(self._round_line(round_summary))

    # How it is shown

    def _where(self) -> str:
        name = PHASE_NAMES.get(self._name, self._name)
        return f"round {self._round}/{self.rounds} {name}" if self._round else name

    def _reward(self) -> float:
        reward = self._row.get("reward")
        return number(reward.get("total") if isinstance(reward, Mapping) else reward)

    def _eta(self) -> float:
        return self._pace * max(self._steps - self._step, 0)

    def _progress(self) -> str:
        total = f"/{self._steps}" if self._steps else ""
        text = f"step {self._step}{total}"
        for name, value in (("reward", self._reward()), ("loss", number(self._row.get("loss")))):
            text += f"  {name} {value:.3f}" if math.isfinite(value) else ""
        speed = number(self._row.get("tokens_per_second"))
        text += f"  {thousands(speed)} tok/s" if math.isfinite(speed) else ""
        return text + f"  ETA {clock(self._eta())}"

    def _end_phase(self, cut: bool = False) -> None:
        if not self._name:
            return
        spent = time.monotonic() - self._phase_start
        text = f"{self._where()} {'stopped' if cut else 'done'} in {clock(spent)}"
        text += f", {self._seen} steps" if self._seen else ""
        if math.isfinite(self._first) and math.isfinite(self._reward()):
            text += f", reward {self._first:.3f} -> {self._reward():.3f}"
        if self.plain:
            self._line(text)
        self._name = ""

    def _round_line(self, item: Mapping[str, Any]) -> str:
        text = f"round {item.get('round')}/{self.rounds}: ASR {percent(mean(item, 'asr')['value'])}"
        suites = [
            f"{name} {percent(found['value'])}"
            for name, found in rates(item.get("asr")).items()
            if name != "mean"
        ]
        text += f" ({', '.join(suites)})" if suites else ""
        for name, key in (("ORR", "orr"), ("accuracy", "accuracy")):
            text += f", {name} {percent(mean(item, key)['value'])}"
        return text + (f", kept {item['kept']}" if "kept" in item else "")

    def _say(self, kind: str, text: str) -> None:
        if self.plain:
            self._line(f"{kind}: {text}" if kind else text)
        else:
            self._tail.append((visible(kind), visible(text)))

    def _line(self, text: str) -> None:
        stamp = clock(time.monotonic() - self._start)
        print(f"[{stamp:>5}] {visible(text)}", file=self._console.file, flush=True)

    def _draw(self) -> Panel:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right")
        spent = clock(time.monotonic() - self._start)
        grid.add_row(
            Text(self._where() if self._name else "between phases", style="bold"),
            f"elapsed {spent}",
        )
        if self._name and self._seen:
            grid.add_row(Text(self._progress()), "")
        parts: list[Any] = [grid]
        if self._name and self._steps:
            bar = Table.grid(expand=True)  # a bare ProgressBar in a Group does not end its line
            bar.add_row(ProgressBar(total=self._steps, completed=min(self._step, self._steps)))
            parts.append(bar)
        if self._done:
            parts += [Text(), self._table(), Text()]
        for kind, text in list(self._tail):
            parts.append(Text.assemble((f"{kind} " if kind else "", "yellow"), text))
        return Panel(Group(*parts), title=Text(self.title), border_style="dim", padding=(0, 1))

    def _table(self) -> Table:
        """Rounds so far; suites only where the terminal has room for them."""
        done = self._done
        names = suite_names(done, "asr")
        if self._console.width < 62 + sum(max(len(name), 6) + 3 for name in names):
            names = []
        table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
        heads = ["round", "mean ASR", *names, "ORR", "accuracy", "kept", "attacker"]
        for head in heads:
            table.add_column(Text(visible(head)), justify="right", no_wrap=True)
        for item in done[-8:]:
            asr = rates(item.get("asr"))
            attacker = (item.get("attacker_success") or {}).get("trained")
            rate_of = rates(attacker).get("mean", {}) if attacker is not None else {}
            cells = [str(item.get("round")), percent(mean(item, "asr")["value"])]
            cells += [percent(asr[name]["value"]) if name in asr else "–" for name in names]
            cells += [percent(mean(item, key)["value"]) for key in ("orr", "accuracy")]
            cells += [str(item.get("kept", "–")), percent(number(rate_of.get("value")))]
            table.add_row(*cells)
        ratio = attacker_ratio(done)
        if ratio:
            table.caption = f"trained attacker {ratio['ratio']:.1f}x self-instruct"
        return table
