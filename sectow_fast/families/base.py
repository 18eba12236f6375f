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
    see each other both ways (Gemma 3), windowed_blocks: in layers with a window alone (Gemma 4).
    softcap: c where the head's logits z become c tanh(z / c).
    unread: what an image processor also tells of its pictures, and the model does not take.
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
    windowed_blocks: bool = False
    softcap: float | None = None
    unread: tuple[str, ...] = ()

    def image_tokens(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        """Placeholders that each image of a codec's `pixel_inputs` needs."""
        return [self.tokens_per_image] * len(pixels["pixel_values"]) if pixels else []

    def pictures(self, pixels: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The inputs of each image by itself: `join_pixels` of them are the inputs of all."""
        parts = {name: value.split(self.rows(name, pixels)) for name, value in pixels.items()}
        return [dict(zip(parts, one, strict=True)) for one in zip(*parts.values(), strict=True)]

    def rows(self, name: str, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        """How many rows each image has in the input of this name."""
        return [1] * len(pixels[name])

    def model_inputs(self, pixels: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the model itself takes of a codec's `pixel_inputs`."""
        return {name: value for name, value in pixels.items() if name not in self.unread}

    def spans(self, pixels: Mapping[str, torch.Tensor]) -> list[int]:
        """The patches of each image, where the tower takes those of all as one row and is told by a
        mask alone which belong together; none elsewhere."""
        return []

    def blank(self, config: Any, tokens: int) -> dict[str, torch.Tensor]:
        """Inputs of one picture with nothing on it, of about `tokens` tokens where the class has
        pictures of any size. config: the model's. What an update takes is counted with it."""
        side = config.vision_config.image_size
        return {"pixel_values": torch.zeros(1, 3, side, side)}

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


def join_pixels(pictures: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The image inputs of several pictures as one: their rows one below the other.

    Where pictures have other numbers of tiles, or other heights and widths, the smaller ones get
    zeros behind, as the processors of such classes pad them, and the model leaves them out. Beside
    `target_sizes`, patches stand in one row [1, 3, side, side x all patches].
    """
    found = {name: [one[name] for one in pictures] for name in pictures[0]}
    joined = {name: _below(parts) for name, parts in found.items() if name != "pixel_values"}
    values = found["pixel_values"]
    packed = torch.cat(values, -1) if "target_sizes" in found else _below(values)
    return {"pixel_values": packed, **joined}


def _below(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    shapes = [part.shape[1:] for part in parts]
    if len(set(shapes)) == 1:
        return torch.cat(list(parts))
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = parts[0].new_zeros(sum(len(part) for part in parts), *largest)
    at = 0
    for part in parts:
        padded[(slice(at, at + len(part)), *(slice(n) for n in part.shape[1:]))] = part
        at += len(part)
    return padded


def ids_in(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """A configuration's `eos_token_id`, which may be one id, several or none, as a tuple.

    UserError where it is anything else.
    """
    found = () if value is None else value if isinstance(value, list | tuple) else (value,)
    if any(type(one) is not int for one in found):
        raise UserError(
            f"model: found {value!r:.80} as eos_token_id, expected the number of a token, or a list"
            " of numbers, in generation_config.json or config.json"
        )
    return tuple(found)


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
    return Family(name=config.model_type, **of_text(config))


def of_text(config: Any) -> dict[str, Any]:
    """The fields of `Family` that the language model of a configuration decides."""
    text = config.get_text_config()
    # Only some classes of transformers have this field.
    softcap = getattr(text, "final_logit_softcapping", None)
    return {"max_positions": text.max_position_embeddings, "softcap": softcap}
