"""Classes with M-RoPE, whose image tokens stand on positions in time, height and width: the
Qwen-VLs (2, 2.5, 3, 3.5, with experts or without) and the GLM-Vs (4.1, 4.5, 4.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.families.base import Family, of_text, register_family


@dataclass(frozen=True, kw_only=True)
class MRopeFamily(Family):
    """A Qwen-VL. merge: patches per side that become one token."""

    axes: int = 3
    merge: int

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        return [int(g.prod()) // self.merge**2 for g in pixels["image_grid_thw"]] if pixels else []

    def positions(
        self, ids: Sequence[int], grids: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        """See `Family`. All h x w tokens of an image have the same position in time, and the image
        moves the running position by max(h, w) (Qwen2-VL, arXiv 2409.12191, section 2.1).
        """
        found = list(ids)
        parts: list[torch.Tensor] = []
        at = begin = 0  # the next token, and its position
        for grid in grids:
            _, height, width = (int(n) // self.merge for n in grid)
            words = found.index(self.image_id, at) - at
            parts.append((torch.arange(words) + begin).expand(3, -1))
            image = torch.stack(
                [
                    torch.zeros(height * width, dtype=torch.long),
                    torch.arange(height).repeat_interleave(width),
                    torch.arange(width).repeat(height),
                ]
            )
            parts.append(image + begin + words)
            at += words + height * width
            begin += words + max(height, width)
        rest = len(found) - at
        parts.append((torch.arange(rest) + begin).expand(3, -1))
        return torch.cat(parts, 1), begin + rest

    def own_inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == self.image_id).long()}

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        vision = config.vision_config
        side = max(int(tokens**0.5), 1) * self.merge
        patch = 3 * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": torch.zeros(side * side, patch, dtype=torch.float32),
            "image_grid_thw": torch.tensor([[1, side, side]]),
        }

    def rows(self, name: str, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        if name == "pixel_values":  # patches, not pictures
            return [int(grid.prod()) for grid in pixels["image_grid_thw"]]
        return super().rows(name, pixels)


def _m_rope(config: Any) -> Family:
    return MRopeFamily(
        name=config.model_type,
        image_id=config.image_token_id,
        merge=config.vision_config.spatial_merge_size,
        **of_text(config),
    )


QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
GLM = ("glm4v", "glm4v_moe", "glm46v")
for _name in (*QWEN, *GLM):
    register_family(_name, _m_rope)
