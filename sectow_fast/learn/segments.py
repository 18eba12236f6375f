"""Who sees whom in a row of many sequences: the description that every attention backend reads.

A row is `[prompt | c1 | ... | cG | prompt | c1 | ...]`. A token sees what stands before it in its
own sequence, which is its group's prompt and its own completion. With its prompt in front, each
completion is a joined sequence of plain causal attention, with fewer queries than keys. A backend
is given these joined sequences, or the same as a mask, and so it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

RATIO = 2  # sequences share a padded batch while none is this many times shorter than the longest


@dataclass(frozen=True, kw_only=True)
class Span:
    """One stretch of a row: `length` tokens from `start`, that sees `prefix` (a prompt) and itself.

    >>> prompt = Span(start=0, length=5)
    >>> Span(start=5, length=3, prefix=prompt).keys
    8
    """

    start: int
    length: int
    prefix: Span | None = None

    @property
    def keys(self) -> int:
        return self.length + (self.prefix.length if self.prefix else 0)


class Segments:
    """The spans of a row of `tokens` tokens, in order. blocks: per token the number of the image
    whose tokens see each other both ways, -1 for none (Gemma 3); None where no image does.
    windowed_blocks: they do so only where attention has a window (Gemma 4).
    both_ways: each token sees the whole of its span, as in a vision tower. Spans then have no
    prefix.

    What a backend needs of it (indices, masks) is made once per row and kept in `prepared`.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        tokens: int,
        *,
        blocks: torch.Tensor | None = None,
        windowed_blocks: bool = False,
        both_ways: bool = False,
    ) -> None:
        self.spans, self.tokens, self.blocks = tuple(spans), tokens, blocks
        self.windowed_blocks, self.both_ways = windowed_blocks, both_ways
        self.prepared: dict[object, object] = {}

    @cached_property
    def prompts(self) -> list[Span]:
        return [span for span in self.spans if span.prefix is None]

    @cached_property
    def completions(self) -> list[Span]:
        return [span for span in self.spans if span.prefix is not None]

    @cached_property
    def labels(self) -> torch.Tensor:
        """int64 [3, T]: group, segment (0 the prompt), and place in the joined sequence."""
        out = torch.zeros(3, self.tokens, dtype=torch.long)
        groups = {id(span): i for i, span in enumerate(self.prompts)}
        counts: dict[int, int] = {}
        for span in self.spans:
            group = groups[id(span.prefix or span)]
            here = slice(span.start, span.start + span.length)
            out[0, here] = group
            if span.prefix is not None:
                counts[group] = counts.get(group, 0) + 1
                out[1, here] = counts[group]
            out[2, here] = torch.arange(span.keys - span.length, span.keys)
        return out

    def blocks_of(self, window: int | None) -> torch.Tensor | None:
        """`blocks` as attention with this window has them."""
        return None if window is None and self.windowed_blocks else self.blocks

    def visible(self, window: int | None = None) -> torch.Tensor:
        """bool [T, T], query by key: the oracle of every backend. window: how many keys a token
        sees back, itself included."""
        group, segment, place = self.labels
        same = group[:, None] == group[None]
        if self.both_ways:
            return same
        mine = (segment[:, None] == segment[None]) | (segment[None] == 0)
        seen = place[:, None] >= place[None]
        if (blocks := self.blocks_of(window)) is not None:
            seen |= (blocks[:, None] == blocks[None]) & (blocks[:, None] >= 0)
        if window is not None:
            seen &= place[:, None] - place[None] < window
        return same & mine & seen


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A padded batch of n joined sequences: indices into the row's T tokens.

    queries [n, Q] and keys [n, K], both padded on the right of their parts: keys are the prompt's
    P places, then Q own ones. used [n, Q] marks real queries; seen [n, Q or 1, K] bool, None where
    no mask is needed: plain causal (no prefix), or all of one length where spans see both ways.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    used: torch.Tensor
    seen: torch.Tensor | None

    def to(self, device: torch.device) -> Joined:
        there = {
            name: None if one is None else one.to(device, non_blocking=True)
            for name, one in vars(self).items()
        }
        return Joined(**there)


def batches_of(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans of similar length together, so that little is padded: a few batches per row at most."""
    out: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: (-s.length, -s.keys)):
        if out and span.length * RATIO > out[-1][0].length:
            out[-1].append(span)
        else:
            out.append([span])
    return out


def joined(segments: Segments, window: int | None) -> list[Joined]:
    """The row as padded batches of joined sequences, prompts first."""
    return [_join(segments, batch, window) for batch in batches_of(segments.prompts)] + [
        _join(segments, batch, window) for batch in batches_of(segments.completions)
    ]


def _join(segments: Segments, spans: Sequence[Span], window: int | None) -> Joined:
    own = torch.tensor([span.length for span in spans])
    start = torch.tensor([span.start for span in spans])
    before = torch.tensor([span.prefix.length if span.prefix else 0 for span in spans])
    first = torch.tensor([span.prefix.start if span.prefix else 0 for span in spans])
    columns = torch.arange(int(own.max()))[None]
    used = columns < own[:, None]
    queries = start[:, None] + torch.where(used, columns, 0)
    if segments.both_ways:
        # A padded query sees real keys, so its row is finite.
        seen = None if bool(used.all()) else used[:, None]
        return Joined(queries=queries, keys=queries, used=used, seen=seen)
    prefix = torch.arange(int(before.max()))[None]
    there = prefix < before[:, None]
    keys = torch.cat([first[:, None] + torch.where(there, prefix, 0), queries], 1)
    longest = keys.shape[1]
    blocks = segments.blocks_of(window)
    plain = not prefix.shape[1] and blocks is None
    if plain and (window is None or longest <= window):
        # Padding is on the right, so causal attention alone hides it.
        return Joined(queries=queries, keys=keys, used=used, seen=None)
    present = torch.cat([there, used], 1)
    place = torch.cat([prefix.expand(len(spans), -1), before[:, None] + columns], 1)
    mine = (before[:, None] + columns)[:, :, None]
    seen = mine >= place[:, None]
    if blocks is not None:
        block = blocks[queries][:, :, None]
        seen |= (block == blocks[keys][:, None]) & (block >= 0)
    if window is not None:
        seen &= mine - place[:, None] < window
    # A padded query must see something, or its row is NaN and so is every gradient.
    seen = (seen & present[:, None]) | ~used[:, :, None]
    return Joined(queries=queries, keys=keys, used=used, seen=seen)
