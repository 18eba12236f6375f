"""What travels between the trainer and an SGLang process: a request a sample, a row a reply."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any


class EngineDied(Exception):
    """The process is gone, or silent for longer than `engine.timeout`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sample that was asked for. key: (prompt number, sample number) in its batch."""

    rid: str
    key: tuple[int, int]
    ids: tuple[int, ...]
    pixels: dict[str, Any] | None
    sampling: dict[str, Any]
    rows: queue.SimpleQueue
    bad: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came back for a request. `reason` is SGLang's finish reason, or an error's text."""

    request: Request
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str | None
    version: str | None
