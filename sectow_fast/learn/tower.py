"""The vision tower of a row: computed for all its pictures at once, or taken from where it is kept.

Left to itself, a tower that packs pictures (Qwen-VL) reads their sizes back from the device at
every forward and calls attention once per picture or window. Here the grid stays on the CPU, and
what follows from it (rotary positions, windows, the ends of pictures) is made there, once per row.
Towers that take pictures of one size as a batch (CLIP, SigLIP) need none of it.

A tower that is not trained gives the same features for a picture at every step. They are computed
once, kept in host memory, and forgotten as soon as a weight of the tower is written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families import family_of, join_pixels
from sectow_fast.learn.attention import ends_of
from sectow_fast.learn.packing import PackedRow
from sectow_fast.learn.segments import Segments, Span

KEPT_BYTES = 2**31
SIZES = ("image_grid_thw", "image_sizes")  # inputs that a tower reads on the host


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the decoder takes of one picture. values: the features [tokens, H], then those of the
    tower's inner layers (Qwen3-VL); stacked: the class wants pictures, or their tiles, as one
    tensor, and the features are [tiles, tokens, H]."""

    values: tuple[torch.Tensor, ...]
    stacked: bool

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.values)


def tower_parameters(model: Any) -> list[torch.nn.Parameter]:
    """What is neither in the decoder nor in the head: vision tower and projector."""
    text = [model.get_decoder(), model.get_output_embeddings()]
    others = {id(p) for module in text for p in module.parameters()}
    return [p for p in model.parameters() if id(p) not in others]


class Tower:
    """The part of `model` that is neither decoder nor head: vision tower and projector.

    kept_bytes: host memory for the features of a tower that is not trained; 0: none are kept.
    """

    def __init__(self, model: Any, *, kept_bytes: int = KEPT_BYTES) -> None:
        self.model, self.family = model, family_of(model)
        self.watch()
        self.kept_bytes = kept_bytes if not any(p.requires_grad for p in self._weights) else 0
        self._kept: dict[str, Features] = {}
        self._written: tuple[int, ...] = ()

    def watch(self) -> None:
        """Look for changes of the weights that the model has now. Sharding puts others in the place
        of these, and a forward puts whole copies in the place of those."""
        self._weights = tower_parameters(self.model)

    def forget(self) -> None:
        """Drop all features that are kept."""
        self._kept.clear()

    def outputs(self, row: PackedRow, device: torch.device) -> dict[str, Any]:
        """The inputs of the model's forward that stand for the row's pictures."""
        if not row.pixel_inputs:
            return {}
        if not self.kept_bytes:
            return {"mm_encoder_outputs": {"image": self.compute(row.pixel_inputs, device)}}
        return {"mm_encoder_outputs": {"image": _joined(self._features(row, device), device)}}

    def _features(self, row: PackedRow, device: torch.device) -> list[Features]:
        # A write to a sharded weight counts at the weight or at this rank's share of it.
        places = [(p, getattr(p, "_local_tensor", p)) for p in self._weights]
        written = tuple(one._version for pair in places for one in pair)
        if written != self._written:
            self.forget()
            self._written = written
        missing = {key: i for i, key in enumerate(row.images) if key not in self._kept}
        if missing:
            with torch.no_grad():
                parts = self.family.pictures(row.pixel_inputs)
                picked = join_pixels([parts[i] for i in missing.values()])
                made = self.compute(picked, device)
            counts = self.family.image_tokens(picked)
            self._kept |= dict(zip(missing, _split(made, counts), strict=True))
        found = [self._kept.pop(key) for key in dict.fromkeys(row.images)]
        self._kept |= dict(zip(dict.fromkeys(row.images), found, strict=True))  # the latest used
        rest = sum(one.nbytes for one in self._kept.values()) - self.kept_bytes
        out = [self._kept[key] for key in row.images]
        for key in list(self._kept):
            if rest <= 0:
                break
            rest -= self._kept.pop(key).nbytes
        return out

    def compute(self, pixels: Mapping[str, torch.Tensor], device: torch.device) -> Any:
        """Features by the model's own tower, from a row's pixels, which are on the host."""
        inner = self.model.model
        inputs: dict[str, Any] = {
            name: value.cpu() if name in SIZES else value.to(device, non_blocking=True)
            for name, value in self.family.model_inputs(pixels).items()
        }
        if "image_grid_thw" in inputs:
            inputs |= layout(inner.visual, inputs["image_grid_thw"], device)
        if spans := self.family.spans(pixels):  # in the place of a mask of all by all
            inputs["cu_seq_lens_q"] = _ends(spans, device)
        return inner.get_image_features(**inputs, return_dict=True)


def layout(visual: Any, grid: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """What a packed tower computes from `grid` [pictures, 3] (on the CPU) alone, by the names under
    which transformers' `vision_utils` takes it."""
    from transformers import vision_utils

    merge = visual.spatial_merge_size
    made = {"position_ids": vision_utils.get_vision_position_ids(grid, merge)}
    frames = [height * width for time, height, width in grid.tolist() for _ in range(time)]
    ends: dict[str, Any] = {"cu_seqlens": _ends(frames, device), "max_seqlen": max(frames)}
    if hasattr(visual, "window_size"):  # Qwen2.5-VL
        made["window_index"], bounds = vision_utils.get_vision_window_index(
            grid, merge, visual.window_size, visual.patch_size
        )
        sizes = bounds.diff().tolist()
        ends |= {"cu_window_seqlens": _ends(sizes, device), "max_window_seqlen": max(sizes)}
    if hasattr(visual, "num_grid_per_side"):  # Qwen3-VL
        made["interp_indices"], made["interp_weights"] = (
            vision_utils.get_vision_interpolation_indices_and_weights(
                grid,
                visual.num_grid_per_side,
                mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners,
                spatial_merge_size=merge,
            )
        )
    return {name: value.to(device, non_blocking=True) for name, value in made.items()} | ends


def _ends(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    spans, at = [], 0
    for length in lengths:
        spans.append(Span(start=at, length=length))
        at += length
    return ends_of(Segments(spans, at, both_ways=True), device)


def _split(made: Any, counts: Sequence[int]) -> list[Features]:
    """The pictures of a tower's output, in host memory. counts: the tokens of each."""
    layers = [made.pooler_output, *(getattr(made, "deepstack_features", None) or [])]
    stacked = isinstance(made.pooler_output, torch.Tensor)
    split = [_by_picture(layer, counts) for layer in layers]
    return [
        # Copied on a CPU too: a view would keep the features of the whole row alive.
        Features(values=tuple(one.to("cpu", copy=True) for one in picture), stacked=stacked)
        for picture in zip(*split, strict=True)
    ]


def _by_picture(layer: Any, counts: Sequence[int]) -> Sequence[torch.Tensor]:
    """Features by picture, where a class gives them by tile [tiles, tokens, H] or by picture."""
    if isinstance(layer, torch.Tensor):
        return layer.split([count // layer.shape[1] for count in counts])
    return torch.cat(list(layer)).split(list(counts))


def _joined(pictures: Sequence[Features], device: torch.device) -> Any:
    """The output of a tower whose pictures these are."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    pooled, *inner = zip(*(one.values for one in pictures), strict=True)
    there = [[value.to(device, non_blocking=True) for value in layer] for layer in (pooled, *inner)]
    first = torch.cat(there[0]) if pictures[0].stacked else there[0]
    made = BaseModelOutputWithPooling(pooler_output=first)
    made.deepstack_features = there[1:]
    return made
