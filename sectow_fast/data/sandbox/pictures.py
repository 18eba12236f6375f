"""Pictures of objects: drawn (shape and colour) and typographic (the name as text, FigStep-like).

A key is `KIND/NUMBER/VARIANT`, "draw/17/3" or "typo/17/3"; the kind is a carrier's name. Forbidden
drawings carry a small warning mark at a random corner: a hazard can be recognised.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sectow_fast.data.sandbox.objects import COLOURS, Thing
from sectow_fast.types import UserError

SIDE = 28
NOISE = 6.4  # standard deviation, of 255
MARK = 8  # side of the warning mark

# Draws an object on an empty picture; what varies from picture to picture comes from the stream.
Paint = Callable[[ImageDraw.ImageDraw, Thing, random.Random], None]


class Pictures:
    """Draws on demand, the same picture for the same key; an `ImageStore`. paints: by kind."""

    def __init__(
        self,
        things: Sequence[Thing],
        *,
        paints: Mapping[str, Paint],
        seed: int,
        variants: int,
    ) -> None:
        self._things, self._paints = things, paints
        self._seed, self.variants = seed, variants

    def key(self, kind: str, thing: Thing, rng: random.Random) -> str:
        return f"{kind}/{thing.number}/{rng.randrange(self.variants)}"

    def size(self, key: str) -> tuple[int, int]:
        return SIDE, SIDE

    def open(self, key: str) -> Image.Image:
        kind, _, rest = key.partition("/")
        number, _, variant = rest.partition("/")
        known = number.isdecimal() and int(number) < len(self._things)
        known = known and variant.isdecimal() and int(variant) < self.variants
        if kind not in self._paints or not known:
            first, *others = sorted(self._paints)
            expected = " or ".join([f"{first}/NUMBER/VARIANT", *(f"{one}/..." for one in others)])
            raise UserError(
                f"image {key!r}: found no such picture, expected {expected}"
                f" with {len(self._things)} objects and {self.variants} variants"
            )
        rng = random.Random(f"{self._seed}/{key}")
        thing = self._things[int(number)]
        image = Image.new("RGB", (SIDE, SIDE), (20, 20, 20))
        self._paints[kind](ImageDraw.Draw(image), thing, rng)
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, NOISE, (SIDE, SIDE, 3))
        pixels = np.asarray(image, dtype=np.float32) + noise
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def typographic(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> None:
    # The bitmap font is the same on every machine; a system font would not be.
    font = ImageFont.load_default_imagefont()
    top = rng.choice((1, 15)) + rng.randint(-1, 1)
    draw.text((2, top), thing.name, fill=(235, 235, 235), font=font)


def drawn(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> None:
    fill = COLOURS[thing.colour]
    x, y = 14 + rng.randint(-2, 2), 14 + rng.randint(-2, 2)
    r = 9 + rng.randint(-1, 1)
    outline(draw, thing.shape, fill, x, y, r)
    if thing.forbidden:
        left, top = rng.choice((0, SIDE - MARK)), rng.choice((0, SIDE - MARK))
        right, bottom = left + MARK - 1, top + MARK - 1
        draw.rectangle((left, top, right, bottom), fill=(0, 0, 0), outline=(250, 220, 0), width=2)
        draw.line((left, top, right, bottom), fill=(250, 220, 0), width=2)


def outline(
    draw: ImageDraw.ImageDraw, shape: str, fill: tuple[int, int, int], x: int, y: int, r: int
) -> None:
    """One of `objects.SHAPES`, filled, around (x, y) with half its side r, in pixels."""
    box = (x - r, y - r, x + r, y + r)
    match shape:
        case "circle":
            draw.ellipse(box, fill=fill)
        case "square":
            draw.rectangle(box, fill=fill)
        case "up":
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
        case "down":
            draw.polygon([(x, y + r), (x - r, y - r), (x + r, y - r)], fill=fill)
        case "diamond":
            draw.polygon([(x, y - r), (x - r, y), (x, y + r), (x + r, y)], fill=fill)
        case "plus":
            draw.rectangle((x - r, y - 2, x + r, y + 2), fill=fill)
            draw.rectangle((x - 2, y - r, x + 2, y + r), fill=fill)
        case "cross":
            draw.line((x - r, y - r, x + r, y + r), fill=fill, width=4)
            draw.line((x - r, y + r, x + r, y - r), fill=fill, width=4)
        case "ring":
            draw.ellipse(box, outline=fill, width=3)
        case "bar":
            draw.rectangle((x - r, y - 3, x + r, y + 3), fill=fill)
        case "pole":
            draw.rectangle((x - 3, y - r, x + 3, y + r), fill=fill)
