"""Pictures: an object drawn or named, a purpose written, or both. A key says what is shown.

A key is `FORM/OBJECT/PURPOSE/VARIANT` with "-" for what is not shown: "draw/17/-/3" is object 17
drawn; "draw/17/4/3" is the same picture with purpose 4 written over it; "note/-/4/3" is purpose 4
alone; "half/17/-/3" has the first syllable of the name of 17. "blank" is an empty picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sectow_fast.data.dual.things import COLOURS, PURPOSES, Thing
from sectow_fast.data.sandbox.pictures import NOISE, outline
from sectow_fast.types import UserError

SIDE = 32  # five letters of the bitmap font, which is six pixels wide
LINE = 12  # a line of text
MARK = 8  # side of a kind's mark
BACKGROUND, TEXT = (20, 20, 20), (235, 235, 235)
# Of the kinds' marks; none is the colour of an object.
INKS = ((170, 110, 60), (190, 190, 190), (130, 70, 210))
BLANK = "blank"

Paint = Callable[[ImageDraw.ImageDraw, Thing, random.Random], int]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a picture tells. half: only the first syllable of the thing's name."""

    form: str
    thing: Thing | None
    purpose: int | None
    variant: int
    half: bool = False

    @property
    def key(self) -> str:
        thing = "-" if self.thing is None else self.thing.number
        purpose = "-" if self.purpose is None else self.purpose
        return f"{self.form}/{thing}/{purpose}/{self.variant}"


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> int:
    """Shape and colour, and the small mark of its kind at a random corner."""
    x, y = SIDE // 2 + rng.randint(-1, 1), SIDE // 2 + rng.randint(-1, 1)
    outline(draw, thing.shape, COLOURS[thing.colour], x, y, 9 + rng.randint(-1, 1))
    left, top = rng.choice((0, SIDE - MARK)), rng.choice((0, SIDE - MARK))
    right, bottom, ink = left + MARK - 1, top + MARK - 1, INKS[thing.kind]
    draw.rectangle((left, top, right, bottom), fill=BACKGROUND)
    if thing.kind == 0:
        for line in (top + 1, top + 3, top + 5):
            draw.line((left, line, right, line), fill=ink)
    elif thing.kind == 1:
        for line in (left + 1, left + 3, left + 5):
            draw.line((line, top, line, bottom), fill=ink)
    else:
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=ink, width=2)
    return 0 if top else SIDE - LINE  # a text is written where the mark is not


def write_name(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> int:
    """The name as text, in one of two lines (FigStep-like)."""
    return _write_one(draw, thing.name, rng)


def write_half(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> int:
    """The first syllable of the name."""
    return _write_one(draw, thing.parts[0], rng)


# Each returns where a line of text has room.
PAINTS: dict[str, Paint] = {"draw": draw_thing, "typo": write_name, "half": write_half}


class Pictures:
    """Draws on demand, the same picture for the same key; an `ImageStore`. paints: by form."""

    def __init__(
        self, things: Sequence[Thing], *, paints: Mapping[str, Paint], seed: int, variants: int
    ) -> None:
        self._things, self._paints, self._seed = things, paints, seed
        self.variants = variants

    def shown(self, key: str) -> Shown:
        """What a key says. UserError where there is no such picture."""
        form, thing, purpose, variant = (*key.split("/"), "", "", "")[:4]
        note = form == "note"
        fits = (
            (note or form in self._paints)
            and key.count("/") == 3
            and (thing == "-" if note else _below(thing, len(self._things)))
            and (not note if purpose == "-" else _below(purpose, len(PURPOSES)))
            and _below(variant, self.variants)
        )
        if not fits:
            raise UserError(
                f"image {key!r}: found no such picture, expected {BLANK} or FORM/OBJECT/PURPOSE/"
                f"VARIANT with a form of {', '.join(sorted([*self._paints, 'note']))},"
                f" {len(self._things)} objects, {len(PURPOSES)} purposes and {self.variants}"
                " variants"
            )
        return Shown(
            form=form,
            thing=None if note else self._things[int(thing)],
            purpose=None if purpose == "-" else int(purpose),
            variant=int(variant),
            half=form == "half",
        )

    def make(self, form: str, thing: Thing | None, purpose: int | None, rng: random.Random) -> str:
        """The key of a picture in a variant drawn from `rng`."""
        variant = rng.randrange(self.variants)
        return Shown(form=form, thing=thing, purpose=purpose, variant=variant).key

    def size(self, key: str) -> tuple[int, int]:
        return SIDE, SIDE

    def open(self, key: str) -> Image.Image:
        image = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
        if key == BLANK:
            return image
        shown = self.shown(key)
        draw = ImageDraw.Draw(image)
        # What is written over a picture leaves the rest of it as it was.
        base = f"{shown.form}/{shown.thing.number}" if shown.thing else "note"
        rng = random.Random(f"{self._seed}/dual/{base}/{shown.variant}")
        room = rng.choice((1, SIDE - LINE - 1))
        if shown.thing is not None:
            room = self._paints[shown.form](draw, shown.thing, rng)
        pixels_seed = rng.getrandbits(32)
        if shown.purpose is not None:
            _write(draw, PURPOSES[shown.purpose], room, rng)
        noise = np.random.default_rng(pixels_seed).normal(0, NOISE, (SIDE, SIDE, 3))
        pixels = np.asarray(image, dtype=np.float32) + noise
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _below(text: str, bound: int) -> bool:
    return text.isdecimal() and int(text) < bound


def _write_one(draw: ImageDraw.ImageDraw, text: str, rng: random.Random) -> int:
    top, other = rng.sample((1, SIDE - LINE - 1), 2)
    _write(draw, text, top, rng)
    return other


def _write(draw: ImageDraw.ImageDraw, text: str, top: int, rng: random.Random) -> None:
    # The bitmap font is the same on every machine; a system font would not be.
    font = ImageFont.load_default_imagefont()
    draw.rectangle((0, top, SIDE - 1, top + LINE - 1), fill=BACKGROUND)
    left = 1 + rng.randint(0, max(0, SIDE - 2 - 6 * len(text)) // 2)
    draw.text((left, top), text, fill=TEXT, font=font)
