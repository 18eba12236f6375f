"""What trainer and engine must know of a model class: positions, image tokens, who sees whom.

Positions are computed here, not by the model: a row that holds several sequences has positions that
no model can guess, and since transformers 5.3 a Qwen-VL without `mm_token_type_ids` silently trains
on wrong ones. Adding a class is one entry in `FAMILIES`, and the start-up self-test
(learn/selftest.py) says whether it is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.types import Prompt, UserError

MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEXT = ("qwen2", "qwen3", "llama")
FAMILIES = ("llava", *MROPE, "gemma3", "gemma3_text", *TEXT)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model class as training sees it.

    axes: rows of `position_ids`, 1 or (M-RoPE: time, height, width) 3. image_id: the placeholder's
    token id. merge: patches a side that become one token. tokens_per_image: where it is fixed.
    block_images: tokens of an image see each other both ways (Gemma 3).

    >>> Family(name="qwen2", axes=1, max_positions=512).positions((7, 8, 9), None)
    (tensor([[0, 1, 2]]), 3)
    """

    name: str
    axes: int
    max_positions: int
    image_id: int | None = None
    merge: int = 1
    tokens_per_image: int | None = None
    block_images: bool = False
    softcap: float | None = None  # of the head's logits

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        """Placeholders that each image of a codec's `pixel_inputs` needs."""
        if not pixels:
            return []
        if self.axes == 3:
            return [int(g.prod()) // self.merge**2 for g in pixels["image_grid_thw"]]
        return [self.tokens_per_image or 0] * len(pixels["pixel_values"])

    def positions(self, ids: Sequence[int], grid: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        """(positions [axes, P] of a prompt, the position its completions begin at).

        grid: [3] patches of its image in time, height and width (M-RoPE only). An M-RoPE image of
        h x w tokens stands on one step of time and takes max(h, w) of the running position
        (Qwen2-VL, arXiv 2409.12191, section 2.1).
        """
        if self.axes == 1 or grid is None:
            return torch.arange(len(ids))[None].expand(self.axes, -1), len(ids)
        _, height, width = (int(n) for n in grid)
        height, width = height // self.merge, width // self.merge
        start = list(ids).index(self.image_id)
        rest = len(ids) - start - height * width
        begin = start + max(height, width)
        text = torch.arange(start)[None].expand(3, -1)
        image = torch.stack(
            [
                torch.zeros(height * width, dtype=torch.long),
                torch.arange(height).repeat_interleave(width),
                torch.arange(width).repeat(height),
            ]
        )
        after = torch.arange(rest)[None].expand(3, -1) + begin
        return torch.cat([text, image + start, after], 1), begin + rest

    def own_inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model itself wants beside ids [B, L] to find positions and masks by itself."""
        if self.image_id is None:
            return {}
        kinds = (ids == self.image_id).long()
        if self.axes == 3:
            return {"mm_token_type_ids": kinds}
        return {"token_type_ids": kinds} if self.block_images else {}

    def check(self, prompt: Prompt, tokens: int | None, longest: int) -> None:
        """UserError where a prompt does not fit: its image's placeholders, or the positions.

        tokens: what its image needs (None: no image); longest: its longest completion.
        """
        found = sum(i == self.image_id for i in prompt.ids) if self.image_id is not None else 0
        if found != (tokens or 0):
            raise UserError(
                f"case {prompt.case_id!r}: found {found} image tokens in its prompt, expected"
                f" {tokens or 0} for {'its image' if tokens else 'no image'}; is the processor"
                " the one this model was saved with?"
            )
        if len(prompt.ids) + longest > self.max_positions:
            raise UserError(
                f"case {prompt.case_id!r}: found {len(prompt.ids)} prompt tokens and a completion"
                f" of up to {longest}, expected at most {self.max_positions} positions in all;"
                " shorten the prompt, shrink the image, or lower max_new_tokens"
            )


def family_of(model: Any) -> Family:
    """The family of a transformers model. UserError for a class whose layout is not known."""
    config = model.config
    name = config.model_type
    if name not in FAMILIES:
        raise UserError(
            f"model class {type(model).__name__} (model_type {name!r}): found no known layout,"
            f" expected one of {', '.join(FAMILIES)}; its positions would be a guess"
        )
    text = config.get_text_config()
    image_id = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    merge, fixed = 1, None
    if name in MROPE:
        merge = config.vision_config.spatial_merge_size
    elif name == "gemma3":
        fixed = config.mm_tokens_per_image
    elif name == "llava":
        vision = config.vision_config
        whole = config.vision_feature_select_strategy == "full"
        fixed = (vision.image_size // vision.patch_size) ** 2 + whole
    return Family(
        name=name,
        axes=3 if name in MROPE else 1,
        max_positions=text.max_position_embeddings,
        image_id=image_id if fixed or name in MROPE else None,
        merge=merge,
        tokens_per_image=fixed,
        block_images=name == "gemma3",
        softcap=getattr(text, "final_logit_softcapping", None),
    )
