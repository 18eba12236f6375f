"""What a stage is and is given, and how large its work is on a card and in rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_check.device import Device
from bench.gpu_check.qwen import THREE_B, TINY, QwenScene, Shape

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of tokens, rows and elements.

    copy: elements of the copied tensor. square: edge of the multiplied matrices. heads: (N, H, V)
    of the policy loss. rewards: of `group_advantage`. loss: tokens of `policy_loss`. shape, edge,
    prompt, completion: of the model stages (see `QwenScene`). prompts: groups of an update and of
    a step. groups: completions per group, an update for each. budget, round_budget: tokens of a
    micro-batch in an update, and in the round that is played. drawn: completions per prompt that an
    engine draws, and tokens of each. syncs: rounds in a row. repeats: timed calls.
    """

    copy: int
    square: int
    heads: tuple[tuple[int, int, int], ...]
    rewards: tuple[int, ...]
    loss: int
    shape: Shape
    groups: tuple[int, ...]
    prompts: int
    prompt: int
    edge: int
    completion: int
    budget: int
    round_budget: int
    drawn: tuple[int, int]
    syncs: int
    repeats: int


CARD = Sizes(
    copy=1 << 28,
    square=8192,
    heads=((16_384, 2048, 151_936), (16_384, 3584, 151_936)),
    rewards=(1_000, 32_000, 1_000_000),
    loss=1_000_000,
    shape=THREE_B,
    groups=(8, 16),
    prompts=2,
    prompt=1200,
    edge=32,
    completion=512,
    budget=8192,
    round_budget=8192,
    drawn=(8, 128),
    syncs=20,
    repeats=7,
)
REHEARSAL = Sizes(
    copy=1 << 12,
    square=32,
    heads=((512, 16, 64),),
    rewards=(16,),
    loss=64,
    shape=TINY,
    groups=(4,),
    prompts=2,
    prompt=48,
    edge=4,
    completion=8,
    budget=256,
    round_budget=1024,
    drawn=(2, 4),
    syncs=2,
    repeats=1,
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One run of the stages. results: the folder of their JSON. scratch: removed at the end.
    attention: SGLang's attention backend, none for its own choice."""

    rehearse: bool
    results: Path
    scratch: Path
    attention: str | None = None

    @property
    def device(self) -> Device:
        return Device.of(rehearse=self.rehearse)

    @property
    def sizes(self) -> Sizes:
        return REHEARSAL if self.rehearse else CARD

    def scene(self, group_size: int, *, drawn: bool = False) -> QwenScene:
        """Groups of this size for the model of this run; drawn: completions are sampled."""
        sizes = self.sizes
        return QwenScene(
            shape=sizes.shape,
            edge=sizes.edge,
            dtype=self.device.dtype,
            group_size=group_size,
            prompt=sizes.prompt,
            completion=sizes.drawn[1] if drawn else sizes.completion,
            prompts=sizes.prompts,
            tokens_per_batch=sizes.budget,
            device=self.device.name,
            drawn=drawn,
        )


def short(value: float) -> float:
    """Four significant digits, as a result is written."""
    return float(f"{value:.4g}")


class Failed(Exception):
    """A stage found something wrong; its rows say what."""


def judged(rows: Iterable[Row], faults: Callable[[Sequence[Row]], list[str]]) -> Iterator[Row]:
    """All rows as they come; then Failed, where `faults` finds something in them."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        yield row
    if wrong := faults(found):
        raise Failed("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """name: of its JSON and on the command line. limit: seconds. run: yields rows, each of which is
    written as it comes. columns: keys of the rows that the table at the end shows."""

    name: str
    what: str
    limit: int
    run: Callable[[Check], Iterator[Row]]
    columns: tuple[str, ...]
