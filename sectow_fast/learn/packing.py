"""Groups laid out as shared-prefix rows: `[prompt | c1 | ... | cG | prompt | c1 | ...]`.

The prompt with its images is most of the work in a VLM, and it is computed once per group.
Positions of each completion continue from the prompt, and a completion sees the prompt and itself
only. So the hidden states are exactly those of G separate rows. A micro-batch is one row of at most
a budget of tokens, so nothing is padded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sectow_fast.families import Family
from sectow_fast.learn.segments import Segments, Span
from sectow_fast.native import pack_groups
from sectow_fast.types import Completion, Prompt, UserError

IGNORE = -100  # the label of a token that has no loss


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Completions of one group that go into one row. group: its number; picked: which ones."""

    group: int
    picked: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """A micro-batch: one row of T tokens.

    input_ids [1, T]; position_ids [1, T], or [3, 1, T] (M-RoPE); segments say who sees whom;
    pixel_inputs: the images', in the row's order; images: their keys. Per completion token (N in
    all, in order of piece, completion, token): `column` [N], the position that predicts it,
    labels [N], rollout_logp [N], owner [N], the completion's number among the row's.

    Two groups of prompts (7, 8) and (9,), two completions and one of a token each, are
    input_ids [[7, 8, a, b, 9, c]], position_ids [[0, 1, 2, 2, 0, 1]], column [1, 1, 4].
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segments: Segments
    pixel_inputs: Mapping[str, torch.Tensor]
    column: torch.Tensor
    labels: torch.Tensor
    rollout_logp: torch.Tensor
    owner: torch.Tensor
    images: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.input_ids.shape[1]


def plan_rows(
    groups: Sequence[tuple[Prompt, Sequence[Completion]]], budget: int, ranks: int = 1
) -> list[list[list[Piece]]]:
    """[ranks][rows][pieces]: rows of at most `budget` tokens, balanced over ranks by tokens.

    A group over the budget is cut into pieces, its prompt repeated. UserError, naming the case,
    where a single completion does not fit with its prompt.
    """
    pieces = [
        piece for i, (prompt, done) in enumerate(groups) for piece in _cut(i, prompt, done, budget)
    ]
    counts = [len(piece.picked) for piece in pieces]
    pack, rank = pack_groups(
        [len(groups[piece.group][0].ids) for piece in pieces],
        [len(groups[p.group][1][j].ids) for p in pieces for j in p.picked],
        np.array([0, *itertools.accumulate(counts)]),
        budget,
        ranks,
    )
    rows: list[list[Piece]] = [[] for _ in rank]
    for piece, row in zip(pieces, pack.tolist(), strict=True):
        rows[row].append(piece)
    plan: list[list[list[Piece]]] = [[] for _ in range(ranks)]
    for row, number in zip(rows, rank.tolist(), strict=True):
        plan[number].append(row)
    return plan


def _cut(group: int, prompt: Prompt, done: Sequence[Completion], budget: int) -> list[Piece]:
    room = budget - len(prompt.ids)
    pieces: list[list[int]] = [[]]
    left = room
    for j, one in enumerate(done):
        size = len(one.ids)
        if size > room:
            raise UserError(
                f"case {prompt.case_id!r}, completion {j}: found {len(prompt.ids)} prompt tokens"
                f" and {size} of its own, expected at most tokens_per_batch {budget} in all;"
                " raise tokens_per_batch, or lower max_new_tokens"
            )
        if size > left:
            pieces.append([])
            left = room
        pieces[-1].append(j)
        left -= size
    return [Piece(group=group, picked=tuple(picked)) for picked in pieces if picked]


def rank_rows(
    groups: Sequence[tuple[Prompt, Sequence[Completion]]],
    budget: int,
    *,
    codec: Any,
    family: Family,
    rank: int = 0,
    world: int = 1,
    dummy: Prompt | None = None,
) -> Iterator[tuple[PackedRow, list[Piece]]]:
    """This rank's micro-batches, and the pieces each is made of.

    Every rank gets the same number of rows, since all ranks take part in each forward. A rank with
    fewer rows repeats one with all its labels off. dummy: a prompt with an image, which is added to
    rows that have none, so that all ranks run the vision tower too.
    """
    plan = plan_rows(groups, budget, world)
    mine = plan[rank]
    spare = (mine or next(rows for rows in plan if rows))[-1]
    for number in range(max(len(rows) for rows in plan)):
        pieces = mine[number] if number < len(mine) else spare
        for soon in mine[number : number + 2]:
            codec.prefetch([groups[piece.group][0] for piece in soon])
        chosen = [(groups[p.group][0], [groups[p.group][1][j] for j in p.picked]) for p in pieces]
        if world > 1 and dummy and not any(prompt.images for prompt, _ in chosen):
            chosen.append((dummy, []))
        row = pack(chosen, codec=codec, family=family)
        if number >= len(mine):
            row = replace(row, labels=torch.full_like(row.labels, IGNORE))
        yield row, pieces


def pack(
    groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, codec: Any, family: Family
) -> PackedRow:
    """Lay groups out as one row. UserError where an image and its placeholders do not match."""
    prompts = [prompt for prompt, _ in groups]
    pixels = codec.pixel_inputs(prompts)
    needed = iter(family.image_tokens(pixels))
    grids = iter(pixels.get("image_grid_thw", ()))
    ids: list[int] = []
    spans: list[Span] = []
    positions: list[torch.Tensor] = []
    columns, labels, logps, owners = [], [], [], []
    count = 0
    for prompt, done in groups:
        shown = len(prompt.images)
        tokens = sum(itertools.islice(needed, shown)) if shown else None
        family.check(prompt, tokens, max((len(one.ids) for one in done), default=0))
        places, begin = family.positions(prompt.ids, list(itertools.islice(grids, shown)))
        prefix = Span(start=len(ids), length=len(prompt.ids))
        ids += prompt.ids
        spans.append(prefix)
        positions.append(places)
        for one in done:
            start, size = len(ids), len(one.ids)
            ids += one.ids
            spans.append(Span(start=start, length=size, prefix=prefix))
            positions.append(torch.arange(begin, begin + size)[None].expand(family.axes, -1))
            # The first token of every completion is predicted by the prompt's last.
            columns += [prefix.start + prefix.length - 1, *range(start, start + size - 1)]
            labels += one.ids
            logps += one.logprobs
            owners += [count] * size
            count += 1
    row = torch.tensor([ids])
    where = torch.cat(positions, 1)
    return PackedRow(
        input_ids=row,
        position_ids=where if family.axes == 1 else where[:, None],
        segments=Segments(
            spans,
            len(ids),
            blocks=_image_blocks(row[0], family),
            windowed_blocks=family.windowed_blocks,
        ),
        pixel_inputs=pixels,
        # dtypes are given because torch makes float32 of an empty list.
        column=torch.tensor(columns, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        rollout_logp=torch.tensor(logps, dtype=torch.float32),
        owner=torch.tensor(owners, dtype=torch.long),
        images=tuple(key for prompt in prompts for key in prompt.images),
    )


def _image_blocks(ids: torch.Tensor, family: Family) -> torch.Tensor | None:
    """[T]: the number of the image a token belongs to, -1 for none. None if it is of no use."""
    image = ids == family.image_id
    if not family.block_images or not image.any():
        return None
    begins = image & ~torch.nn.functional.pad(image, (1, 0))[:-1]
    return torch.where(image, begins.cumsum(0) - 1, -1)
