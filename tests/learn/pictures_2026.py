"""Three pictures of other shapes for each of the classes of 2026, as their processors give them."""

from __future__ import annotations

import torch
from families import IMAGE, SHAPES, Codec

from sectow_fast.families import join_pixels

BREAK = 94  # a token of the text between rows or tiles of a picture


def _tiles(draw, model, height, width):
    """The whole picture and its tiles; a part of the last ones is cut off again."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    size = (4 * height - 1, 4 * width)
    count = image_size_to_num_patches(size, model.config.image_grid_pinpoints, 8)
    pixels = torch.randn(1, count, 3, 8, 8, generator=draw)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}


def _any_size(draw, model, height, width):
    size = (
        (2 * height, 2 * width) if model.config.model_type == "llava" else (4 * height, 4 * width)
    )
    pixels = torch.randn(1, 3, *size, generator=draw)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}


def _squares(draw, model, height, width):
    count = height * width // 16
    pixels = torch.randn(count, 3, 16, 16, generator=draw)
    return {"pixel_values": pixels, "num_patches": torch.tensor([count])}


def _masked_squares(draw, model, height, width):
    count = height * width // 16
    pixels = torch.randn(1, count, 3, 16, 16, generator=draw)
    mask = torch.ones(1, count, 16, 16, dtype=torch.long)
    if height > width:
        mask[..., 8:] = 0  # a tile that the picture does not fill
    return {"pixel_values": pixels, "pixel_attention_mask": mask}


def _filled_up(draw, model, height, width):
    """Patches, filled up to 40."""
    places = torch.full((1, 40, 2), -1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places[0, : height * width] = torch.stack([columns, rows], -1).flatten(0, 1)
    pixels = torch.zeros(1, 40, 3 * 4 * 4)
    pixels[0, : height * width] = torch.rand(height * width, 3 * 4 * 4, generator=draw)
    count = torch.tensor([height * width // 4])
    kind = {"pixel_values": pixels, "image_position_ids": places}
    return kind | {"num_soft_tokens_per_image": count}


def _tiles_of_any_size(draw, model, height, width):
    """A wide picture has two tiles and the whole one behind, another one is a tile alone; all are
    filled up to 40 patches."""
    shapes = [(4, 4), (4, 4), (2, 4)] if width > height else [(height, width)]
    pixels, mask = torch.zeros(len(shapes), 40, 3 * 4 * 4), torch.zeros(len(shapes), 40)
    for at, (rows, columns) in enumerate(shapes):
        pixels[at, : rows * columns] = torch.randn(rows * columns, 3 * 4 * 4, generator=draw)
        mask[at, : rows * columns] = 1
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": mask.long(),
        "spatial_shapes": torch.tensor(shapes),
        "image_rows": torch.tensor([1]),
        "image_cols": torch.tensor([2 if len(shapes) > 1 else 1]),
    }


def _slices(draw, model, height, width):
    """A wide picture has two slices behind."""
    shapes = [(4, 8), (4, 4), (4, 4)] if width > height else [(height, width)]
    patches = sum(rows * columns for rows, columns in shapes)
    return {
        "pixel_values": torch.randn(1, 3, 4, 4 * patches, generator=draw),
        "target_sizes": torch.tensor(shapes),
        "grids": torch.tensor([[1, 2] if len(shapes) > 1 else [0, 0]]),
        "num_patches_per_image": torch.tensor([len(shapes)]),
    }


# Pictures by the class's `model_type`, where they are not patches with a grid.
PIXELS = {
    "llava_next": _tiles,
    "llava_onevision": _tiles,
    "llava": _any_size,
    "mistral3": _any_size,
    "internvl": _squares,
    "idefics3": _masked_squares,
    "smolvlm": _masked_squares,
    "gemma4": _filled_up,
    "lfm2_vl": _tiles_of_any_size,
    "minicpmv4_6": _slices,
}
# The placeholders between which tokens of the text stand: in rows or tiles of so many tokens.
ROWS = {"llava": "row", "mistral3": "row", "idefics3": 4, "smolvlm": 4}


def placeholders(kind: str, pixels, count: int, cell: int) -> list[int]:
    """A picture's tokens as the processor of its class writes them."""
    if kind not in ROWS:
        return [IMAGE] * count
    size = int(pixels["image_sizes"][0, 1]) // cell if ROWS[kind] == "row" else ROWS[kind]
    return [one for _ in range(count // size) for one in ([IMAGE] * size + [BREAK])]


class Pictures(Codec):
    """A codec whose pictures are as the processors of these classes give them."""

    banned_ids = (0, IMAGE, 91, 92, 93, BREAK)

    def pictures(self, model):
        make = PIXELS.get(self.family.name)
        if make is None:
            return super().pictures(model)
        draw = torch.Generator().manual_seed(7)
        return {key: make(draw, model, *shape) for key, shape in SHAPES.items()}

    def pixel_inputs(self, prompts):
        found = [self.pixels[key] for p in prompts for key in p.images]
        return join_pixels(found) if found else {}

    def shown(self, image: str) -> list[int]:
        pixels = self.pixels[image]
        (count,) = self.family.image_tokens(pixels)
        return placeholders(self.family.name, pixels, count, getattr(self.family, "cell", 1))
