"""Streams of engines that draw everything at once, and a stream as one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sectow_fast.engine.protocol import Stream
from sectow_fast.types import Completion


class AtOnce:
    """A `Stream` that calls `draw` when it is first waited for. draw() gives [prompts][n]."""

    def __init__(self, draw: Callable[[], list[list[Completion]]]) -> None:
        self._draw: Callable[[], list[list[Completion]]] | None = draw
        self._left: list[tuple[int, int, Completion]] = []

    def each(self, *, wait: bool = True) -> Iterator[tuple[int, int, Completion]]:
        """See `Stream`. Nothing is there before the first call that waits."""
        if wait and self._draw is not None:
            draw, self._draw = self._draw, None
            drawn = [(i, j, one) for i, group in enumerate(draw()) for j, one in enumerate(group)]
            self._left = drawn[::-1]
        while self._left:
            yield self._left.pop()

    def close(self) -> None:
        """Nothing more comes; what was not drawn yet never is."""
        self._draw, self._left = None, []


def whole(stream: Stream, *, prompts: int, n: int) -> list[list[Completion]]:
    """All completions of a stream, [prompts][n]; it is closed where something goes wrong."""
    out: list[list[Any]] = [[None] * n for _ in range(prompts)]
    try:
        for i, j, done in stream.each():
            out[i][j] = done
    finally:
        stream.close()
    return out
