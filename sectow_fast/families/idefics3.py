"""Idefics3 and SmolVLM, which show a picture as tiles, each between tokens of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family


@dataclass(frozen=True, kw_only=True)
class Idefics3Family(Family):
    """tokens_per_image: of a tile. pixel_values [pictures, tiles, 3, H, W]; a picture of fewer
    tiles is filled up by tiles of zeros, which the model leaves out."""

    unread: tuple[str, ...] = ("rows", "cols")

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        if not pixels:
            return []
        seen = pixels.get("pixel_attention_mask", pixels["pixel_values"])
        shown = (seen != 0).flatten(2).any(-1).sum(1)
        return [self.tokens_per_image * n for n in shown.tolist()]

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        side, tiles = config.vision_config.image_size, max(tokens // self.tokens_per_image, 1)
        mask = torch.ones(1, tiles, side, side, dtype=torch.long)
        return {"pixel_values": torch.zeros(1, tiles, 3, side, side), "pixel_attention_mask": mask}


def _idefics3(config: Any) -> Family:
    vision = config.vision_config
    return Idefics3Family(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=(vision.image_size // vision.patch_size // config.scale_factor) ** 2,
        **of_text(config),
    )


for _name in ("idefics3", "smolvlm"):
    register_family(_name, _idefics3)
