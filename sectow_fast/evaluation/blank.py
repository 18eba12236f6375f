"""A suite of pictures asked once more with blank ones: what is answered without seeing them.

A model that is blind, or that only repeats the words beside a picture, does as well on the control
as on the suite. Only what it does otherwise there comes from what the pictures show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sectow_fast.data.images import ImageStore
from sectow_fast.data.suites import OpenSuite, SuiteCase
from sectow_fast.data.suites.cases import Refused, Suite, SuiteInfo
from sectow_fast.data.suites.wording import Wording

ENDING = "-blank"


@dataclass(frozen=True, kw_only=True)
class BlankPictures:
    """An `ImageStore` of white pictures, each as large as its key's own."""

    real: ImageStore

    def open(self, key: str) -> Image.Image:
        return Image.new("RGB", self.size(key), "white")

    def size(self, key: str) -> tuple[int, int]:
        return self.real.size(key)


@dataclass(frozen=True, kw_only=True)
class BlankSuite:
    """A `Suite` whose pictures are blank, under a name of its own."""

    real: Suite

    @property
    def info(self) -> SuiteInfo:
        info = self.real.info
        title = f"{info.title}, blank pictures"
        return replace(info, name=f"{info.name}{ENDING}", title=title, counts={})

    def find(self, folder: Path) -> Path | None:
        return self.real.find(folder)

    def cases(self, root: Path, split: str, wording: Wording) -> Iterator[SuiteCase | Refused]:
        return self.real.cases(root, split, wording)

    def images(self, root: Path) -> ImageStore:
        return BlankPictures(real=self.real.images(root))


def control_of(
    suite: OpenSuite, cases: Sequence[SuiteCase]
) -> tuple[OpenSuite, list[SuiteCase]] | None:
    """(the control of a suite, those of `cases` that show a picture); None where none shows one."""
    shown = [case for case in cases if case.images]
    if not shown:
        return None
    blank = BlankSuite(real=suite.suite)
    control = replace(suite, suite=blank, images=blank.images(suite.root))
    return control, [replace(case, suite=control.name, id=f"{case.id}{ENDING}") for case in shown]
