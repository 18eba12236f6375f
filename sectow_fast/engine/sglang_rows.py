"""What travels between trainer and SGLang: weights, one request and one row per sample."""

from __future__ import annotations

import itertools
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sectow_fast.engine.weight_sync import Bucket

MESSAGE_BYTES = 2**25


class EngineDied(Exception):
    """The process is gone, or silent for longer than `engine.timeout`."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a server must hold before it draws: one model's weights at one version.

    buckets(device): the weights on the engine's device, one bucket at a time; called only where
    they have to travel, and again after a restart.
    """

    name: str
    version: int
    buckets: Callable[[torch.device], Iterable[Bucket]]

    @property
    def label(self) -> str:
        """What SGLang reports with every row that was drawn from these weights."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sample that was asked for. key: (prompt number, sample number) in its stream.

    pixels(): the prompt's picture as the model takes it, empty without one; called whenever the
    request is sent, so that nothing holds pixels in between. The samples of one prompt share it.
    bad: how often the request came back wrong already.
    """

    rid: str
    key: tuple[int, int]
    ids: tuple[int, ...]
    pixels: Callable[[], Mapping[str, torch.Tensor]]
    sampling: dict[str, Any]
    rows: queue.SimpleQueue
    bad: int = 0


# A tensor for the host, of any dtype, which numpy has not: (dtype, shape, its bytes).
Packed = tuple[str, tuple[int, ...], np.ndarray]
# One prompt for the host: (ids, its pixels, [(request id, sampling)]).
Asked = tuple[list[int], dict[str, Packed], list[tuple[str, dict]]]


class Backlog:
    """Streams of prompts that wait until an engine has room for them, the oldest stream first.

    A prompt is made into requests, one per sample, only when it is taken. So what waits costs no
    memory, however long the stream is.
    """

    def __init__(self) -> None:
        self._streams: deque[Iterator[Sequence[Request]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._streams)

    def add(self, prompts: Iterator[Sequence[Request]]) -> None:
        self._streams.append(prompts)

    def drop(self, prompts: Iterator[Sequence[Request]]) -> None:
        """Forget a stream; nothing happens where it is at its end."""
        if prompts in self._streams:
            self._streams.remove(prompts)

    def take(self, room: int) -> list[Request]:
        """Whole prompts until at least `room` samples are taken, or none is left."""
        taken: list[Request] = []
        while self._streams and len(taken) < room:
            group = next(self._streams[0], None)
            if group is None:
                self._streams.popleft()
            else:
                taken += group
        return taken


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came back for a request. reason: SGLang's finish reason, or an error's text. start: the
    number of the server's start that drew it, from 1."""

    request: Request
    start: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str | None
    version: str | None

    @classmethod
    def of(
        cls,
        request: Request,
        start: int,
        ids: Sequence[int],
        logprobs: Sequence[float],
        reason: str | None,
        version: str | None,
    ) -> Row:
        """From the lists that came through the pipe."""
        return cls(
            request=request,
            start=start,
            ids=tuple(ids),
            logprobs=tuple(logprobs),
            reason=reason,
            version=version,
        )


def messages(requests: Sequence[Request]) -> Iterator[list[Asked]]:
    """What goes to the host, one message at a time: about `MESSAGE_BYTES` of pixels at most.

    A prompt's samples travel together, so its pixels travel once. They are fetched for the message
    that is made, so no more than one message's are held here.
    """
    waiting: list[Asked] = []
    size = 0
    for _, group in itertools.groupby(requests, key=lambda request: id(request.pixels)):
        samples = list(group)
        pixels = {name: _packed(value) for name, value in samples[0].pixels().items()}
        waiting.append((list(samples[0].ids), pixels, [(one.rid, one.sampling) for one in samples]))
        size += sum(data.nbytes for _, _, data in pixels.values())
        if size >= MESSAGE_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def _packed(tensor: torch.Tensor) -> Packed:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy()


def problem(row: Row, *, end_ids: Sequence[int], limit: int, label: str) -> str | None:
    """Why a row is no sample of the wanted weights, in words; None where it is one.

    limit: the most new tokens. label: of the weights.
    """
    if row.reason not in ("stop", "length"):
        return f"finish reason {row.reason!r}, expected stop or length"
    if len(row.logprobs) != len(row.ids) or not row.ids:
        return f"{len(row.ids)} tokens with {len(row.logprobs)} log-probs"
    if row.reason == "length" and len(row.ids) != limit:
        return f"{len(row.ids)} tokens, cut by length, expected {limit}"
    if row.reason == "stop" and row.ids[-1] not in end_ids:
        ends = " or ".join(map(str, end_ids))
        return f"a stop at token {row.ids[-1]}, expected the end token {ends}"
    if row.version != label:
        return f"weights {row.version!r}, expected {label!r}"
    return None
