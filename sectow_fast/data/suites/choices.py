"""Multiple choice as MMMU and MMMU-Pro print it: options, numbered pictures, letters."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sectow_fast.data.suites import tables
from sectow_fast.data.suites.cases import Part, Refused, SuiteCase
from sectow_fast.data.suites.tables import Row

MARK = re.compile(r"<image (\d{1,4})>")


class OddRow(Exception):
    """A row cannot be asked as it was meant; the text says what was found."""


def cases_of(
    rows: Iterable[Row], prefix: str, make: Callable[[str, str, Row], SuiteCase]
) -> Iterator[SuiteCase | Refused]:
    """A case of each row, `Refused` where `make` finds it odd.

    prefix: of the ids, before the row's own. make: takes the id, the row's own one, and the row.
    """
    for row in rows:
        number = tables.field(row.values, "id", row.where)
        name = f"{prefix}:{number}"
        try:
            yield make(name, number, row)
        except OddRow as odd:
            yield Refused(id=name, where=row.where, reason=str(odd))


def options_of(text: Any) -> tuple[str, ...]:
    """The options, which are printed as a Python list in one field. OddRow for anything else."""
    try:
        found = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, list | tuple):
        raise OddRow(f"options {str(text)[:40]!r} that are no printed list")
    if len(found) > 26:
        raise OddRow(f"{len(found)} options, which is more than there are letters")
    if any(isinstance(one, list | tuple | dict) for one in found):
        raise OddRow("an option that is a list of its own")
    if not found:
        raise OddRow("no options")
    return tuple(str(one) for one in found)


def interleaved(text: str, keys: Mapping[int, str]) -> tuple[Part, ...]:
    """Words and pictures in order: picture n takes the place of `<image n>`, others go in front.

    A picture named twice is shown once, at its first place. OddRow where a named one is absent.

    >>> interleaved("see <image 1> now", {1: "a"})
    (('text', 'see'), ('image', 'a'), ('text', 'now'))
    """
    named = {int(number) for number in MARK.findall(text)}
    absent = sorted(named - keys.keys())
    if absent:
        raise OddRow(f"<image {absent[0]}> in the words, but no image_{absent[0]}")
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


def right_answer(text: Any, options: Sequence[str]) -> str:
    """The letter of the right option; without options the right answers, one per line, of which
    some are printed as a list. OddRow where no reply could be right."""
    words = "" if text is None else str(text).strip()
    found: Any = words
    if not options and words.startswith("["):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = ast.literal_eval(words)
    answers = [str(one) for one in found] if isinstance(found, list) else [words]
    if not answers or not all(answers):
        raise OddRow("no right answer")
    if options and words not in [chr(65 + at) for at in range(len(options))]:
        raise OddRow(f"the right answer {words[:40]!r}, which is none of {len(options)} letters")
    return "\n".join(answers)
