"""MiniCPM-V 4.6: a picture and slices of it, whose patches are packed into one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family


@dataclass(frozen=True, kw_only=True)
class MiniCPMFamily(Family):
    """pixel_values [1, 3, side, side x all patches]. merge: patches along an edge per token. The
    processor tells the slices of each picture (the whole one among them), and their patches."""

    merge: int
    unread: tuple[str, ...] = ("grids", "num_patches_per_image")

    def rows(self, name: str, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        slices = pixels["num_patches_per_image"].tolist()
        if name == "pixel_values":
            patches = pixels["target_sizes"].prod(-1).split(slices)
            return [int(one.sum()) * pixels[name].shape[2] for one in patches]
        return slices if name == "target_sizes" else super().rows(name, pixels)

    def pictures(self, pixels: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        parts = {
            name: value.split(self.rows(name, pixels), -1 if name == "pixel_values" else 0)
            for name, value in pixels.items()
        }
        return [dict(zip(parts, one, strict=True)) for one in zip(*parts.values(), strict=True)]

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        if not pixels:
            return []
        tokens = (pixels["target_sizes"] // self.merge).prod(-1)
        slices = pixels["num_patches_per_image"].tolist()
        return [int(one.sum()) for one in tokens.split(slices)]

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        side, patch = max(int(tokens**0.5), 1) * self.merge, config.vision_config.patch_size
        return {
            "pixel_values": torch.zeros(1, 3, patch, patch * side * side),
            "target_sizes": torch.tensor([[side, side]]),
            "num_patches_per_image": torch.tensor([1]),
        }


def _minicpm(config: Any) -> Family:
    side, _ = config.merge_kernel_size
    within = 1 if config.downsample_mode == "4x" else 2
    return MiniCPMFamily(
        name=config.model_type,
        image_id=config.image_token_id,
        merge=within * side**config.merger_times,
        **of_text(config),
    )


register_family("minicpmv4_6", _minicpm)
