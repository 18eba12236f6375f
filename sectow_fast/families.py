"""What trainer and engine must know of a model class: positions, image tokens, who sees whom.

Positions are computed here, not by the model, because a row that holds several sequences has
positions that no model can guess. Since transformers 5.3 a Qwen-VL without `mm_token_type_ids` even
trains on wrong ones silently. A file outside the package adds a class by `register_family`, and the
self-test at start-up (learn/selftest.py) checks that its layout is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sectow_fast.registry import Registry
from sectow_fast.types import Prompt, UserError


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model class as training sees it: text in order, images of a fixed number of tokens.

    axes: rows of `position_ids`, 1 or (M-RoPE: time, height, width) 3. image_id: the placeholder's
    token id. tokens_per_image: how many placeholders an image has. block_images: tokens of an image
    see each other both ways (Gemma 3). softcap: c where the head's logits z become c tanh(z / c).
    A class that differs in more than these fields overrides the methods, as `MRopeFamily` does.

    >>> Family(name="qwen2", axes=1, max_positions=512).positions((7, 8, 9), ())
    (tensor([[0, 1, 2]]), 3)
    """

    name: str
    axes: int = 1
    max_positions: int
    image_id: int | None = None
    tokens_per_image: int = 0
    block_images: bool = False
    softcap: float | None = None

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        """Placeholders that each image of a codec's `pixel_inputs` needs."""
        return [self.tokens_per_image] * len(pixels["pixel_values"]) if pixels else []

    def positions(
        self, ids: Sequence[int], grids: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        """(positions [axes, P] of a prompt, the position its completions begin at).

        grids: [3] patches of each of its images in time, height and width (M-RoPE only).
        """
        return torch.arange(len(ids))[None].expand(self.axes, -1), len(ids)

    def own_inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs beside ids [B, L] from which the model itself computes positions and masks."""
        return {"token_type_ids": (ids == self.image_id).long()} if self.block_images else {}

    def check(self, prompt: Prompt, tokens: int | None, longest: int) -> None:
        """UserError where a prompt does not fit: its images' placeholders, or the positions.

        tokens: what its images need together (None: no image); longest: its longest completion.
        """
        found = sum(i == self.image_id for i in prompt.ids) if self.image_id is not None else 0
        if found != (tokens or 0):
            raise UserError(
                f"case {prompt.case_id!r}: found {found} image tokens in its prompt, expected"
                f" {tokens or 0} for {'what it shows' if tokens else 'no image'}; is the processor"
                " the one this model was saved with?"
            )
        if len(prompt.ids) + longest > self.max_positions:
            raise UserError(
                f"case {prompt.case_id!r}: found {len(prompt.ids)} prompt tokens and a completion"
                f" of up to {longest}, expected at most {self.max_positions} positions in all;"
                " shorten the prompt, shrink the image, or lower max_new_tokens"
            )


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


def ids_in(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """A configuration's `eos_token_id`, which may be one id, several or none, as a tuple."""
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def reply_ends(told: Sequence[int], model: Any) -> tuple[int, ...]:
    """The ids that end a reply: those a codec tells, and those of the model's own generation
    configuration (Gemma 3 ends a turn by another token than its tokenizer ends a text)."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return tuple(sorted({*told, *ids_in(own)}))


# Makes the family of a model from its transformers configuration.
FamilyEntry = Callable[[Any], Family]
FAMILIES = Registry[FamilyEntry]("model family")


def register_family(name: str, entry: FamilyEntry) -> FamilyEntry:
    """Make a model class known by its `model_type`. UserError where the name is taken."""
    return FAMILIES.register(name, entry)


def family_of(model: Any) -> Family:
    """The family of a transformers model. UserError for a class whose layout is not known."""
    name = model.config.model_type
    if name not in FAMILIES:
        raise UserError(
            f"model class {type(model).__name__} (model_type {name!r}): found no known layout,"
            f" expected one of {', '.join(FAMILIES.names())}; its positions would be a guess;"
            " add its layout by register_family in a file given by --plugins"
        )
    return FAMILIES.get(name)(model.config)


def text_family(config: Any) -> Family:
    """A decoder of text alone whose tokens stand on positions 0, 1, 2, ..."""
    return Family(name=config.model_type, **_of_text(config))


def _of_text(config: Any) -> dict[str, Any]:
    """The fields of `Family` that the language model of a configuration decides."""
    text = config.get_text_config()
    # Only some classes of transformers have this field.
    softcap = getattr(text, "final_logit_softcapping", None)
    return {"max_positions": text.max_position_embeddings, "softcap": softcap}


def _llava(config: Any) -> Family:
    vision = config.vision_config
    whole = config.vision_feature_select_strategy == "full"
    return Family(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=(vision.image_size // vision.patch_size) ** 2 + whole,
        **_of_text(config),
    )


def _m_rope(config: Any) -> Family:
    return MRopeFamily(
        name=config.model_type,
        image_id=config.image_token_id,
        merge=config.vision_config.spatial_merge_size,
        **_of_text(config),
    )


def _gemma3(config: Any) -> Family:
    return Family(
        name=config.model_type,
        image_id=config.image_token_id,
        tokens_per_image=config.mm_tokens_per_image,
        block_images=True,
        # transformers' class with pictures does not cap its logits; its text classes do.
        **_of_text(config) | {"softcap": None},
    )


register_family("llava", _llava)
for _name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
    register_family(_name, _m_rope)
register_family("gemma3", _gemma3)
for _name in ("gemma3_text", "qwen2", "qwen3", "llama"):
    register_family(_name, text_family)
