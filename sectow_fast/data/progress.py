"""How far a long piece of work is: counts only, never a request or a reply."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

EVERY = 10.0  # seconds between two lines where standard error is no terminal


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each of `total` things.

    A terminal shows a bar. A file gets one line every ten seconds and one at the end.
    """
    if total and sys.stderr.isatty():
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    done, due = 0, time.monotonic() + EVERY

    def say() -> None:
        print(f"{what} {done} of {total}", file=sys.stderr, flush=True)

    def step() -> None:
        nonlocal done, due
        done += 1
        if time.monotonic() >= due:
            due = time.monotonic() + EVERY
            say()

    yield step
    if total:
        say()
