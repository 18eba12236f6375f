"""InternVL, which shows a picture as several tiles of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family


@dataclass(frozen=True, kw_only=True)
class InternVLFamily(Family):
    """tokens_per_image: of a tile. The processor tells the tiles of each picture."""

    unread: tuple[str, ...] = ("num_patches",)

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        return [self.tokens_per_image * n for n in pixels["num_patches"].tolist()] if pixels else []

    def rows(self, name: str, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        return (
            pixels["num_patches"].tolist() if name == "pixel_values" else super().rows(name, pixels)
        )

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        tiles = max(tokens // self.tokens_per_image, 1)
        pixels = torch.zeros(tiles, 3, *config.vision_config.image_size)
        return {"pixel_values": pixels, "num_patches": torch.tensor([tiles])}


def _internvl(config: Any) -> Family:
    return InternVLFamily(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=config.image_seq_length,
        **of_text(config),
    )


register_family("internvl", _internvl)
