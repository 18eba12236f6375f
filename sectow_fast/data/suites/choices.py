"""Multiple choice as MMMU and MMMU-Pro print it: options, numbered pictures, letters."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from sectow_fast.data.suites.cases import Part
from sectow_fast.types import UserError

MARK = re.compile(r"<image (\d+)>")


def options_of(text: Any, where: str) -> tuple[str, ...]:
    """The options, which are printed as a Python list in one field."""
    try:
        found = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, list | tuple):
        raise UserError(f"{where}: found options {str(text)[:40]!r}, expected a printed list")
    if len(found) > 26:
        raise UserError(f"{where}: found {len(found)} options, expected at most 26")
    return tuple(str(one) for one in found)


def interleaved(text: str, keys: Mapping[int, str], where: str) -> tuple[Part, ...]:
    """Words and pictures in order: picture n takes the place of `<image n>`, others go in front.

    A picture named twice is shown once, at its first place. UserError where a named one is absent.

    >>> interleaved("see <image 1> now", {1: "a"}, "row 1")
    (('text', 'see'), ('image', 'a'), ('text', 'now'))
    """
    named = {int(number) for number in MARK.findall(text)}
    absent = sorted(named - keys.keys())
    if absent:
        raise UserError(
            f"{where}: found <image {absent[0]}> in the words, but no image_{absent[0]};"
            " download it again"
        )
    parts: list[Part] = [("image", keys[number]) for number in sorted(keys.keys() - named)]
    shown: set[int] = set()
    for at, piece in enumerate(MARK.split(text)):
        if at % 2:
            number = int(piece)
            if number in shown:
                # A second mention stays as text, so that the words still make sense.
                parts.append(("text", f"(image {number})"))
            else:
                parts.append(("image", keys[number]))
            shown.add(number)
        elif piece.strip():
            parts.append(("text", piece.strip()))
    return tuple(parts)


def right_answers(text: Any) -> str:
    """The right answers of an open question, one per line; some are printed as a list."""
    if isinstance(text, str) and text.strip().startswith("["):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        return "\n".join(str(one) for one in found)
    return str(text)
