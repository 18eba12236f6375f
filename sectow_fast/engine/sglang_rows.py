"""What travels between trainer and SGLang: weights, one request and one row per sample."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


class EngineDied(Exception):
    """The process is gone, or silent for longer than `engine.timeout`."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a server must hold before it draws: one model's weights at one version.

    weights: called only where they have to travel, and again after a restart.
    """

    name: str
    version: int
    weights: Callable[[], Sequence[tuple[str, torch.Tensor]]]

    @property
    def label(self) -> str:
        """What SGLang reports with every row that was drawn from these weights."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sample that was asked for. key: (prompt number, sample number) in its stream.

    bad: how often it came back wrong already.
    """

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


def by_prompt(requests: Sequence[Request]) -> list[tuple[list[int], Any, list[tuple[str, dict]]]]:
    """(ids, pixels, [(request id, sampling)]) for the host: a prompt's samples travel together.

    So its pixels travel once. Requests of one prompt share their `ids` and `pixels` objects.
    """
    rows: list[tuple[list[int], Any, list[tuple[str, dict]]]] = []
    last: Request | None = None
    for request in requests:
        sample = (request.rid, request.sampling)
        if last and last.ids is request.ids and last.pixels is request.pixels:
            rows[-1][2].append(sample)
        else:
            rows.append((list(request.ids), request.pixels, [sample]))
        last = request
    return rows


def problem(row: Row, *, eos_id: int, limit: int, label: str) -> str | None:
    """Why a row is no sample of the wanted weights, in words; None where it is one.

    limit: the most new tokens. label: of the weights.
    """
    if row.reason not in ("stop", "length"):
        return f"finish reason {row.reason!r}, expected stop or length"
    if len(row.logprobs) != len(row.ids) or not row.ids:
        return f"{len(row.ids)} tokens with {len(row.logprobs)} log-probs"
    if row.reason == "length" and len(row.ids) != limit:
        return f"{len(row.ids)} tokens, cut by length, expected {limit}"
    if row.reason == "stop" and row.ids[-1] != eos_id:
        return f"a stop at token {row.ids[-1]}, expected the end token {eos_id}"
    if row.version != label:
        return f"weights {row.version!r}, expected {label!r}"
    return None
