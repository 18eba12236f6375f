"""LFM2-VL, whose pictures are tiles of any size, filled up to one length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family


@dataclass(frozen=True, kw_only=True)
class Lfm2VlFamily(Family):
    """factor: patches along an edge per token. A picture of several tiles has the whole one behind
    them; a processor that leaves it out (`use_thumbnail`) is not known here."""

    factor: int
    unread: tuple[str, ...] = ("image_rows", "image_cols", "image_sizes")

    def rows(self, name: str, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        if name in self.unread:
            return super().rows(name, pixels)
        cut = (pixels["image_rows"] * pixels["image_cols"]).tolist()
        return [tiles + (tiles > 1) for tiles in cut]

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        if not pixels:
            return []
        tokens = (pixels["spatial_shapes"] // self.factor).prod(-1)
        return [int(one.sum()) for one in tokens.split(self.rows("spatial_shapes", pixels))]

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        side, patch = max(int(tokens**0.5), 1) * self.factor, config.vision_config.patch_size
        return {
            "pixel_values": torch.zeros(1, side * side, 3 * patch**2),
            "pixel_attention_mask": torch.ones(1, side * side, dtype=torch.long),
            "spatial_shapes": torch.tensor([[side, side]]),
            "image_rows": torch.tensor([1]),
            "image_cols": torch.tensor([1]),
        }


def _lfm2_vl(config: Any) -> Family:
    return Lfm2VlFamily(
        name=config.model_type,
        image_id=config.image_token_id,
        factor=config.downsample_factor,
        **of_text(config),
    )


register_family("lfm2_vl", _lfm2_vl)
