"""Cases with pictures before a model that takes none: refused, or asked in the suite's words."""

from __future__ import annotations

from collections.abc import Sequence

from sectow_fast.data.suites.cases import SuiteCase
from sectow_fast.types import UserError


def in_words(suite: str, cases: Sequence[SuiteCase]) -> tuple[list[SuiteCase], str]:
    """(the cases of a suite without their pictures, a note of how many had one, or "").

    A case that its suite has no words for is left out and counted. UserError where none is left.
    """
    pictured = sum(bool(case.images) for case in cases)
    kept = [made for case in cases if (made := case.in_words()) is not None]
    if not kept:
        raise UserError(
            f"suite {suite}: found no words for what its {pictured} cases show, expected some with"
            " text_only; leave the suite out, or give a model that takes pictures"
        )
    left = len(cases) - len(kept)
    note = f"{suite}: {pictured - left} of {len(cases)} cases have words in place of their pictures"
    if left:
        note += f"; {left} that the suite has no words for are left out"
    return kept, note if pictured else ""


def refuse_pictures(suite: str, cases: Sequence[SuiteCase], *, model: str, setting: str) -> None:
    """UserError where a case shows a picture. model: the one that takes none; setting: by which a
    user has words in their place."""
    shown = sum(bool(case.images) for case in cases)
    if shown:
        raise UserError(
            f"suite {suite}: found {shown} of {len(cases)} cases with pictures, expected words"
            f" alone: {model} takes no pictures; {setting} shows the suite's words in their place"
        )
