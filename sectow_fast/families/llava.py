"""LLaVA, and its successors that cut a picture into tiles (LLaVA-NeXT, LLaVA-OneVision), with the
classes whose tower takes pictures of any size (Pixtral, Mistral 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family
from sectow_fast.types import Prompt, UserError


@dataclass(frozen=True, kw_only=True)
class TiledFamily(Family):
    """The whole picture, and then tiles of it in rows that end with a newline token each.

    tokens_per_image: of the whole picture. side: pixels of a tile along an edge; patches: patches
    of it along an edge; grids: the sizes [height, width] that a picture may be scaled to. most: so
    many tiles' worth of tokens a picture has at most, since more are averaged; None: no such bound.
    """

    side: int
    patches: int
    grids: tuple[tuple[int, int], ...]
    most: int | None = None

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        sizes = pixels["image_sizes"].tolist() if pixels else []
        return [self.tokens_per_image + self._tiled(size) for size in sizes]

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        """A picture of the largest size, whatever the tokens."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        size = max(self.grids, key=lambda one: one[0] * one[1])
        tiles = image_size_to_num_patches(size, list(self.grids), self.side)
        pixels = torch.zeros(1, tiles, 3, self.side, self.side)
        return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}

    def _tiled(self, size: Sequence[int]) -> int:
        """By transformers' own functions: what is cut off is rounded in them."""
        from transformers.models.llava_next import modeling_llava_next as own

        rows, columns = own.get_anyres_image_grid_shape(size, list(self.grids), self.side)
        whole = torch.empty(1, rows * self.patches, columns * self.patches, device="meta")
        _, height, width = own.unpad_image(whole, size).shape
        if self.most is not None:
            ratio = math.sqrt(height * width / (self.most * self.patches**2))
            if ratio > 1.1:
                height, width = int(height // ratio), int(width // ratio)
        return height * (width + 1)


@dataclass(frozen=True, kw_only=True)
class OneVisionFamily(TiledFamily):
    """A prompt of several pictures has them without tiles, which is not laid out here."""

    def check(self, prompt: Prompt, tokens: int | None, longest: int) -> None:
        if len(prompt.images) > 1:
            raise UserError(
                f"case {prompt.case_id!r}: found {len(prompt.images)} images, expected one:"
                f" {self.name} shows several ones in another form, which is not laid out here"
            )
        super().check(prompt, tokens, longest)


@dataclass(frozen=True, kw_only=True)
class SizedFamily(Family):
    """Pictures of any size, a token for each `cell` x `cell` pixels, and a token of the text after
    each row of them. A smaller picture is filled up beside a larger one; `image_sizes` tells.
    merge: patches along an edge per token."""

    cell: int
    merge: int

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        sizes = pixels["image_sizes"].tolist() if pixels else []
        return [(height // self.cell) * (width // self.cell) for height, width in sizes]

    def spans(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        return [tokens * self.merge**2 for tokens in self.image_tokens(pixels)]

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        side = max(int(tokens**0.5), 1) * self.cell
        sizes = torch.tensor([[side, side]])
        return {"pixel_values": torch.zeros(1, 3, side, side), "image_sizes": sizes}


def _llava(config: Any) -> Family:
    vision = config.vision_config
    if vision.model_type == "pixtral":
        return _sized(config)
    whole = config.vision_feature_select_strategy == "full"
    return Family(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=(vision.image_size // vision.patch_size) ** 2 + whole,
        **of_text(config),
    )


def _sized(config: Any) -> Family:
    merge = getattr(config, "spatial_merge_size", 1)
    return SizedFamily(
        name=config.model_type,
        image_id=config.image_token_id,
        cell=config.vision_config.patch_size * merge,
        merge=merge,
        **of_text(config),
    )


def _tiled(config: Any) -> Family:
    vision = config.vision_config
    patches = vision.image_size // vision.patch_size
    # A tower like CLIP's has a token for the whole picture in front, which "default" leaves out.
    front = vision.model_type.startswith("clip")
    whole = config.vision_feature_select_strategy == "full"
    ratio = getattr(config, "vision_aspect_ratio", None)
    made = TiledFamily if ratio is None else OneVisionFamily
    return made(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=patches**2 + (front if whole else front - 1),
        side=vision.image_size,
        patches=patches,
        grids=tuple((height, width) for height, width in config.image_grid_pinpoints),
        most=None if ratio is None else int(ratio.removeprefix("anyres_max_")),
        **of_text(config),
    )


register_family("llava", _llava)
register_family("mistral3", _sized)
for _name in ("llava_next", "llava_onevision"):
    register_family(_name, _tiled)
