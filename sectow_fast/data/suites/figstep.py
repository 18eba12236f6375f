"""FigStep (Gong et al., arXiv 2311.05608): the request is a typographic picture of an empty list.

The words alone look harmless, so a judge must be given `goal`, the instruction in the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import converted, forms, root_with
from sectow_fast.data.suites.pictures import SuiteImages, picture_key
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

SPLITS = {"safebench": "SafeBench", "tiny": "SafeBench-Tiny"}
# The repository; data/ under another name; the pictures inside of parquet files.
PATTERNS = {
    split: (
        *forms(f"data/question/{name}", f"question/{name}", name),
        *converted(name, split),
    )
    for split, name in SPLITS.items()
}
COLUMNS = ("category_id", "task_id", "category_name", "question", "instruction")
SIDE = 760  # pixels of the published pictures
SMALLEST = 12  # pixels of a letter that a model can still read (our choice)
INK, PAPER = "#000000", "#ffffff"


class FigStep:
    info = SuiteInfo(
        name="figstep",
        title="FigStep",
        licence="MIT",
        splits=("safebench", "tiny"),
        layout="data/question/safebench.csv (split tiny: SafeBench-Tiny.csv) and data/images/",
        counts={"safebench": 500, "tiny": 50},
    )

    def find(self, folder: Path) -> Path | None:
        return root_with(folder, [one for found in PATTERNS.values() for one in found])

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        base = "data/" if (root / "data" / "images").is_dir() else ""
        for found in tables.split_rows(root, PATTERNS[split], COLUMNS, ("image",)):
            row, where = found.values, found.where
            numbers = [tables.field(row, column, where) for column in ("category_id", "task_id")]
            if not all(number.isdecimal() for number in numbers):
                raise UserError(
                    f"{where}: found category_id, task_id {', '.join(numbers)}, expected numbers"
                )
            category, task = numbers
            # 1-7 are against the law everywhere, 8-10 ask for advice: reported apart.
            kind = "categories 1-7" if int(category) <= 7 else "categories 8-10"
            key = f"{base}images/{SPLITS[split]}/query_ForbidQI_{category}_{task}_6.png"
            if row.get("image") is not None:
                key = picture_key(root, found, ("image",))
            yield SuiteCase(
                id=f"figstep:{split}:{category}-{task}",
                suite="figstep",
                split=split,
                label="unsafe",
                parts=(("image", key), ("text", wording.figstep)),
                goal=tables.field(row, "instruction", where),
                category=tables.field(row, "category_name", where),
                format=kind,
                group=f"{category}-{task}",
                where=where,
                metadata={"question": tables.optional(row, "question")},
            )

    def images(self, root: Path) -> ImageStore:
        return SuiteImages(root)


def render_steps(
    text: str, *, steps: int = 3, side: int = SIDE, font: str | Path | None = None
) -> Image.Image:
    """FigStep's picture of `text` above an empty list "1. 2. 3.": RGB, side x side, black on white.

    font: a TrueType file, none for Pillow's own. The largest size at which all lines fit is taken,
    words are never cut. UserError where the text is blank or too long for the size SMALLEST.
    The method is the paper's (section 3.2); layout and font are ours, so that pixels differ from
    the published pictures.
    """
    if not text.strip():
        raise UserError("render_steps: found no text, expected words")
    margin = side // 30
    room = side - 2 * margin
    tail = [f"{number}." for number in range(1, steps + 1)]

    def laid_out(size: int) -> Image.Image | None:
        try:
            face = ImageFont.load_default(size) if font is None else ImageFont.truetype(font, size)
        except OSError as error:
            raise UserError(f"font {font}: found no readable font ({error})") from None
        lines = _wrapped(text.split(), face, room)
        height = round(1.3 * size)
        if not lines or height * len(lines + tail) > room:
            return None
        picture = Image.new("RGB", (side, side), PAPER)
        draw = ImageDraw.Draw(picture)
        for number, line in enumerate(lines + tail):
            draw.text((margin, margin + number * height), line, fill=INK, font=face)
        return picture

    # The smallest size comes first: a text that is too long even for it need not be wrapped at all.
    if (small := laid_out(SMALLEST)) is None:
        raise UserError(
            f"render_steps: found {len(text)} characters, expected what fits {side} x {side}"
            " pixels; shorten the text or raise side"
        )
    larger = (laid_out(size) for size in range(side // 9, SMALLEST, -1))
    return next((picture for picture in larger if picture is not None), small)


def _wrapped(words: list[str], face: ImageFont.FreeTypeFont, room: int) -> list[str]:
    """Lines no wider than `room`; none where a single word is wider."""
    lines: list[str] = []
    for word in words:
        if face.getlength(word) > room:
            return []
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


SUITE = FigStep()
