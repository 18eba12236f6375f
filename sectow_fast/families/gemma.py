"""Gemma 3 and 4, whose image tokens may see each other both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family


def _gemma3(config: Any) -> Family:
    return Family(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=config.mm_tokens_per_image,
        block_images=True,
        # transformers' class with pictures does not cap its logits; its text classes do.
        **of_text(config) | {"softcap": None},
    )


@dataclass(frozen=True, kw_only=True)
class Gemma4Family(Family):
    """pooling: patches of an image per token."""

    pooling: int

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        """A patch that only fills up has the position (-1, -1)."""
        if not pixels:
            return []
        patches = (pixels["image_position_ids"] != -1).all(-1).sum(-1)
        return [int(count) // self.pooling for count in patches]

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        vision = config.vision_config
        side = max(int(tokens**0.5), 1) * vision.pooling_kernel_size
        places = torch.stack([torch.arange(side).repeat(side), torch.arange(side * side) // side])
        pixels = torch.zeros(1, side * side, 3 * vision.patch_size**2)
        return {"pixel_values": pixels, "image_position_ids": places.T[None]}

    def own_inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == self.image_id).long()}


def _gemma4(config: Any) -> Family:
    text = config.get_text_config()
    return Gemma4Family(
        name=config.model_type,
        image_id=config.image_token_id,
        block_images=text.use_bidirectional_attention == "vision",
        windowed_blocks=True,
        unread=("num_soft_tokens_per_image",),
        pooling=config.vision_config.pooling_kernel_size**2,
        **of_text(config),
    )


register_family("gemma3", _gemma3)
register_family("gemma4", _gemma4)
