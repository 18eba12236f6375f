"""TRL's padded micro-batch as one shared-prefix row (learn/packing.py).

TRL shuffles the completions of a rollout before it cuts it into micro-batches, so
completions of one prompt are found again here, by tokens and pixels. The more completions a
micro-batch holds, the more is shared. Completions without a gradient are left out. All other
tensors keep TRL's [B, T] layout: `where` says which place of it each of the row's tokens has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sectow_fast.families import Family, family_of
from sectow_fast.learn import attention, forks
from sectow_fast.learn.packing import PackedRow, pack
from sectow_fast.types import Completion, Prompt, UserError

# Inputs of models without a family; their images cannot be assigned to rows.
FOREIGN = ("pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes")
FOREIGN += ("image_position_ids",)


@dataclass(frozen=True, kw_only=True)
class SharedBatch:
    """A row, on `device`, and the places [N] of its completion tokens in the flat [B * T] batch.

    Two completions (a, b) and (c,) of one prompt and T = 3 are where = [0, 1, 3]. masks: makes the
    model's `attention_mask` of the row's.
    """

    row: PackedRow
    where: Tensor
    device: torch.device
    masks: Callable[[Tensor], Any] = lambda mask: mask

    @property
    def labels(self) -> Tensor:
        return self.row.labels.to(self.device)

    @property
    def model_inputs(self) -> dict[str, Any]:
        return {
            "input_ids": self.row.input_ids.to(self.device),
            "attention_mask": self.masks(attention.mask_of(self.row.segments, self.device)),
            "position_ids": self.row.position_ids.to(self.device),
            **self.row.pixel_inputs,
        }

    def states(self, hidden: Tensor) -> Tensor:
        """[N, H] of the row's hidden states [1, tokens, H]."""
        return hidden[0, self.row.column.to(hidden.device)]


def sharing(model: Any) -> tuple[Callable[..., SharedBatch], Callable[[], None]]:
    """(a function that makes batches, one that restores the attention) for a transformers model.

    ValueError for a class whose layout is not known, or attention dropout.
    """
    try:
        family = family_of(model)
    except UserError as error:
        raise ValueError(f"sectow_fast.adapters.trl, shared_prefix: {error}") from None
    if family.unread:  # what its processor tells of its pictures is not in TRL's batch
        raise ValueError(
            f"sectow_fast.adapters.trl, shared_prefix: found {family.name}, expected a class with"
            " images as LLaVA, Qwen-VL and Gemma 3 have them"
        )
    text = model.config.get_text_config()
    if getattr(text, "attention_dropout", 0.0):
        raise ValueError(
            f"sectow_fast.adapters.trl, shared_prefix: found attention_dropout"
            f" {text.attention_dropout}, expected 0"
        )
    before = attention.implementations(model)
    attention.use(model, "auto")
    forks.use(model)

    def share(inputs: Mapping[str, Any], live: Tensor) -> SharedBatch:
        batch = shared_batch(inputs, live, family)
        return replace(batch, masks=lambda mask: forks.masks_for(model, mask))

    return share, lambda: attention.put(model, before)


def shared_batch(inputs: Mapping[str, Any], live: Tensor, family: Family) -> SharedBatch:
    """The rows of TRL's batch that `live` [B] names, as one row: a prompt once, its completions
    after it. Where none is live the first prompt stands alone, so that every rank has a forward."""
    rows = live.nonzero().flatten().tolist()
    ids, kept = inputs["prompt_ids"].tolist(), inputs["prompt_mask"].bool().tolist()
    prompts = {
        i: tuple(t for t, on in zip(ids[i], kept[i], strict=True) if on) for i in rows or [0]
    }
    images = Images(inputs, len(ids))
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for i, prompt in prompts.items():
        alike = groups.setdefault(prompt, [])
        home = next((group for group in alike if images.same(group[0], i)), None)
        alike.append([i]) if home is None else home.append(i)
    members = [group for alike in groups.values() for group in alike]
    completions, lengths = inputs["completion_ids"].tolist(), inputs["completion_mask"].sum(1)
    lengths = lengths.tolist()

    def completion(i: int) -> Completion:
        mine = tuple(completions[i][: lengths[i]])
        return Completion(ids=mine, logprobs=(0.0,) * len(mine), finish_reason="stop")

    pairs = [
        (
            Prompt(
                case_id=f"row {group[0]} of the micro-batch",
                ids=prompts[group[0]],
                images=images.keys(group[0]),
            ),
            [completion(i) for i in group if rows],
        )
        for group in members
    ]
    tokens, order = inputs["completion_ids"].shape[1], [i for g in members for i in g if rows]
    where = [i * tokens + t for i in order for t in range(lengths[i])]
    device = inputs["prompt_ids"].device
    return SharedBatch(
        row=pack(pairs, codec=images, family=family),
        where=torch.tensor(where, dtype=torch.long, device=device),
        device=device,
    )


class Images:
    """The images of TRL's batch, any number for each row, as `pack` asks a codec for them."""

    def __init__(self, inputs: Mapping[str, Any], rows: int) -> None:
        for name in FOREIGN:
            if inputs.get(name) is not None:
                raise ValueError(
                    f"sectow_fast.adapters.trl, shared_prefix: found {name!r} in the batch,"
                    " expected images as LLaVA, Qwen-VL and Gemma 3 have them"
                )
        self.pixels, self.grids = inputs.get("pixel_values"), inputs.get("image_grid_thw")
        none, counts = self.pixels is None, inputs.get("num_images")
        self.count = list(counts) if counts and not none else [0 if none else 1] * rows
        self._first = [0, *itertools.accumulate(self.count)]  # each row's first image
        sizes = torch.ones(self._first[-1]) if self.grids is None else self.grids.prod(-1)
        self._ends = [0, *sizes.long().cumsum(0).tolist()]

    def keys(self, row: int) -> tuple[str, ...]:
        """What a `Prompt` calls the row's images: their numbers in the batch."""
        return tuple(str(i) for i in range(self._first[row], self._first[row + 1]))

    def same(self, one: int, other: int) -> bool:
        """Whether two rows show the same images in the same order."""
        if self.count[one] != self.count[other]:
            return False
        pairs = zip(self._of(self.keys(one)), self._of(self.keys(other)), strict=True)
        return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        found = self._of([key for prompt in prompts for key in prompt.images])
        return {name: torch.cat([one[name] for one in found]) for name in (found or [{}])[0]}

    def _of(self, keys: Sequence[str]) -> list[dict[str, Tensor]]:
        """The model's inputs for each image."""
        found = []
        for i in map(int, keys):
            one = {"pixel_values": self.pixels[self._ends[i] : self._ends[i + 1]]}
            if self.grids is not None:
                one["image_grid_thw"] = self.grids[i : i + 1]
            found.append(one)
        return found
