"""FigStep (Gong et al., arXiv 2311.05608): the request is a typographic picture of an empty list.

The words alone look harmless, so a judge must be given `goal`, the instruction in the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sectow_fast.data.images import FolderImages
from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import SuiteCase, SuiteInfo
from sectow_fast.data.suites.layout import root_with
from sectow_fast.data.suites.wording import Wording
from sectow_fast.types import UserError

SPLITS = {
    "safebench": ("safebench.csv", "SafeBench"),
    "tiny": ("SafeBench-Tiny.csv", "SafeBench-Tiny"),
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
        names = tuple(f"data/question/{name}" for name, _ in SPLITS.values())
        return root_with(folder, names, below=("FigStep",))

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase]:
        name, pictures = SPLITS[split]
        for where, row in tables.csv_rows(root / "data" / "question" / name, COLUMNS):
            numbers = [tables.field(row, column, where) for column in ("category_id", "task_id")]
            if not all(number.isdecimal() for number in numbers):
                raise UserError(
                    f"{where}: found category_id, task_id {', '.join(numbers)}, expected numbers"
                )
            category, task = numbers
            # 1-7 are against the law everywhere, 8-10 ask for advice: reported apart.
            kind = "categories 1-7" if int(category) <= 7 else "categories 8-10"
            key = f"data/images/{pictures}/query_ForbidQI_{category}_{task}_6.png"
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
                metadata={"question": row["question"] or ""},
            )

    def images(self, root: Path) -> FolderImages:
        return FolderImages(root)


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
