"""FigStep's picture of any words, in letters that a person can read, never in empty boxes."""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from sectow_fast.types import UserError

SIDE = 760  # pixels of FigStep's published pictures
SMALLEST = 12  # pixels of a letter that a model can still read (our choice)
INK, PAPER = "#000000", "#ffffff"
FONTS = ("DejaVuSans.ttf", "STIXGeneral.ttf")  # matplotlib ships them; the first that has all
# Letters of these directions (Unicode's bidirectional class) are written from the right.
FROM_THE_RIGHT = ("R", "AL", "AN")


def render_steps(
    text: str, *, steps: int = 3, side: int = SIDE, font: str | Path | None = None
) -> Image.Image:
    """FigStep's picture of `text` above an empty list "1. 2. 3.": RGB, side x side, black on white.

    font: a TrueType file; none: the first of FONTS that has every letter. The largest size at which
    all lines fit is taken, words are never cut. UserError where the text is blank, holds a letter
    that the font has not or that shows nothing, or is too long for the size SMALLEST.
    The method is the paper's (section 3.2); layout and font are ours, so that pixels differ from
    the published pictures.
    """
    words = text.split()
    if not words:
        raise UserError("render_steps: found no text, expected words")
    path = str(font) if font is not None else _font_of(text)
    if missing := _missing(path, text):
        raise UserError(
            f"render_steps: found U+{ord(missing):04X}, which the font {Path(path).name} cannot"
            " draw, expected letters that it has; give a font that has it, or leave it out"
        )
    engine = _layout(text)
    margin = side // 30
    room = side - 2 * margin
    tail = [f"{number}." for number in range(1, steps + 1)]

    def lines_at(size: int) -> list[str]:
        lines = _wrapped(words, _face(path, size, engine), room)
        return lines if round(1.3 * size) * len(lines + tail) <= room else []

    if not (found := lines_at(SMALLEST)):
        raise UserError(
            f"render_steps: found {len(text)} characters, expected what fits {side} x {side}"
            " pixels; shorten the text or raise side"
        )
    low, high = SMALLEST, max(SMALLEST, side // 9)  # what fits, and the most that is tried
    while low < high:
        middle = (low + high + 1) // 2
        if lines := lines_at(middle):
            low, found = middle, lines
        else:
            high = middle - 1
    picture = Image.new("RGB", (side, side), PAPER)
    draw, face = ImageDraw.Draw(picture), _face(path, low, engine)
    for number, line in enumerate(found + tail):
        draw.text((margin, margin + number * round(1.3 * low)), line, fill=INK, font=face)
    return picture


def _wrapped(words: list[str], face: ImageFont.FreeTypeFont, room: int) -> list[str]:
    """Lines no wider than `room`; none where a single word is wider."""
    letter = functools.cache(face.getlength)
    blank = letter(" ")
    lines: list[list[str]] = []
    left = 0.0
    for word in words:
        # By letters, each measured once: kerning and joining only make a word narrower.
        size = sum(map(letter, word))
        if size > room:
            return []
        if lines and size + blank <= left:
            lines[-1].append(word)
            left -= size + blank
        else:
            lines.append([word])
            left = room - size
    return [" ".join(line) for line in lines]


def _font_of(text: str) -> str:
    """The first font that has every letter; the first of all where none has, for the message."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "render_steps: found no matplotlib, whose fonts draw the words;"
            " pip install 'sectow-fast[train]', or give a font"
        )
    folder = Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    paths = [str(folder / name) for name in FONTS]
    return next((path for path in paths if not _missing(path, text)), paths[0])


def _missing(path: str, text: str) -> str:
    """The first letter that the font cannot draw, "" where it can draw all.

    What shows nothing (control and format characters, half a surrogate pair) counts as missing: two
    texts that differ in it would give one picture. Letters that are written from the right are
    missing where Pillow has no layout engine for them.
    """
    letters = sorted({letter for letter in text if not letter.isspace()})
    drawn = _drawable(path)
    for letter in letters:
        shown = ord(letter) in drawn and unicodedata.category(letter)[0] != "C"
        backwards = unicodedata.bidirectional(letter) in FROM_THE_RIGHT
        if not shown or (backwards and not _shapes()):
            return letter
    return ""


@functools.cache
def _drawable(path: str) -> frozenset[int]:
    """The code points that a font has a glyph for."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            return frozenset(font.getBestCmap() or ())
    except (OSError, TTLibError) as error:
        raise UserError(f"font {path}: found no readable font ({error})") from None


@functools.cache
def _shapes() -> bool:
    return bool(features.check("raqm") and features.check("fribidi"))


def _layout(text: str) -> ImageFont.Layout:
    """Raqm where letters join and run from the right; the basic engine is the same everywhere."""
    backwards = any(unicodedata.bidirectional(one) in FROM_THE_RIGHT for one in text)
    return ImageFont.Layout.RAQM if backwards else ImageFont.Layout.BASIC


@functools.lru_cache(maxsize=256)
def _face(path: str, size: int, engine: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size, layout_engine=engine)
    except OSError as error:
        raise UserError(f"font {path}: found no readable font ({error})") from None
