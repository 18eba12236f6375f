"""Suites by name, and a suite opened on a folder: checked whole before anything is asked.

`NAME[:SPLIT]=FOLDER` is how a user names one. A file in this folder adds a suite by naming it
`SUITE`; a file outside the package adds one by `register_suite`.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sectow_fast.data.images import FolderImages, ImageStore, by_folder
from sectow_fast.data.suites.cases import Refused, Suite, SuiteCase
from sectow_fast.data.suites.in_words import in_words
from sectow_fast.data.suites.wording import Wording
from sectow_fast.data.whole import unshowable
from sectow_fast.registry import Registry
from sectow_fast.texts import mended
from sectow_fast.types import UserError

SUITES = Registry[Suite]("suite")
LISTED = 100  # broken pictures that a message names one by one
# Gives what the first of several ranks made to all of them (`Ranks.told` of learn/ranks.py).
Told = Callable[[Callable[[], dict[str, str]]], dict[str, str]]


def _register_built_in() -> None:
    """Register the suites of this folder that are not yet known."""
    package = importlib.import_module(__package__ or "sectow_fast.data.suites")
    for module in pkgutil.iter_modules(package.__path__):
        suite = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "SUITE", None)
        if suite is not None and suite.info.name not in SUITES:
            SUITES.register(suite.info.name, suite)


def register_suite(suite: Suite) -> Suite:
    """Make a suite known by the name in its `info`. UserError: a taken name, or one that
    `NAME[:SPLIT]=FOLDER` could not hold."""
    if not suite.info.name or set(suite.info.name) & set(":=, "):
        raise UserError(
            f"suite {suite.info.name!r}: found a name that is empty or has ':', '=', ',' or ' ',"
            " expected one that --suite NAME[:SPLIT]=FOLDER can hold"
        )
    _register_built_in()
    return SUITES.register(suite.info.name, suite)


def suites() -> dict[str, Suite]:
    """Every suite by its name, in the order of the names."""
    _register_built_in()
    return {name: SUITES.get(name) for name in sorted(SUITES.names())}


@dataclass(frozen=True, kw_only=True)
class SuiteSpec:
    """What a user wrote: which suite, which split ("" is its first one), from which folder."""

    name: str
    split: str
    folder: Path

    @classmethod
    def parse(cls, text: str) -> SuiteSpec:
        """
        >>> SuiteSpec.parse("jailbreakv:mini=/data/JailBreakV_28K").split
        'mini'
        """
        name, equals, folder = text.partition("=")
        if not equals or not folder or not name:
            raise UserError(f"suite {text!r}: found no NAME=FOLDER, expected NAME[:SPLIT]=FOLDER")
        name, _, split = name.partition(":")
        return cls(name=name, split=split, folder=Path(folder))


@dataclass(frozen=True, kw_only=True)
class OpenSuite:
    """A suite on a folder. `cases` reads the files again each time; nothing is kept."""

    suite: Suite
    split: str
    root: Path
    images: ImageStore
    wording: Wording = field(default_factory=Wording)
    text_only: bool = False  # pictures give way to the suite's words for them

    @property
    def name(self) -> str:
        return self.suite.info.name

    @property
    def is_plain(self) -> bool:
        """Whether its unsafe requests are asked as a person would ask, and are no jailbreaks."""
        return self.split in self.suite.info.plain

    def cases(self) -> Iterator[SuiteCase]:
        """The cases in the file's order, without the rows that are refused."""
        return (row for row, _ in self._rows() if isinstance(row, SuiteCase))

    def _rows(self) -> Iterator[tuple[SuiteCase | Refused, int]]:
        """Rows, and how many halves of surrogate pairs in each became U+FFFD."""
        for row in self.suite.cases(self.root, self.split, self.wording):
            yield _mended(row) if isinstance(row, SuiteCase) else (row, 0)

    def checked(
        self, notes: list[str] | None = None, *, skip_broken: bool = False
    ) -> list[SuiteCase]:
        """Every case, once all of them and the files of their pictures are known to be there.

        notes: told what was left out or changed, one line each. skip_broken: pictures may be
        missing, and `whole` leaves them out. UserError: a broken row, an id that comes twice,
        missing pictures (how many and where), or no row that can be asked.
        """
        rows = list(self._rows())
        cases = [row for row, _ in rows if isinstance(row, SuiteCase)]
        refused = [row for row, _ in rows if isinstance(row, Refused)]
        halves = {row.id: count for row, count in rows if count}
        if not cases:
            why = f" ({refused[0].where}: found {refused[0].reason})" if refused else ""
            raise UserError(f"{self.root}: found no case of {self.name}:{self.split}{why}")
        if notes is not None and refused:
            notes.append(f"{self.name}:{self.split}: {_left_out(refused, len(rows))}")
        if notes is not None and halves:
            notes.append(
                f"{self.name}:{self.split}: {sum(halves.values())} halves of surrogate pairs, which"
                f" no encoder writes, gave way to U+FFFD ({', '.join(halves)})"
            )
        seen: dict[str, str] = {}
        for case in cases:
            if case.id in seen:
                raise UserError(
                    f"{case.where}: found id {case.id!r} again, expected it once; it stands at"
                    f" {seen[case.id]}"
                )
            seen[case.id] = case.where
        if self.text_only:
            cases, note = in_words(self.name, cases)
            if notes is not None and note:
                notes.append(note)
        if isinstance(self.images, FolderImages) and not skip_broken:
            self._check_pictures(self.images, [key for case in cases for key in case.images])
        return cases

    def whole(
        self, cases: Sequence[SuiteCase], *, skip_broken: bool, told: Told | None = None
    ) -> tuple[list[SuiteCase], str]:
        """(the cases whose pictures can all be shown, a note of how many cannot, or "").

        Each picture is decoded, or is known to be sound since it last changed. told: gives what
        the first of several ranks finds to all. UserError, unless `skip_broken`: pictures that
        cannot be shown. The first 100 are named with their rows, one line each, the rest counted.
        """
        keys = [key for case in cases for key in case.images]

        def look() -> dict[str, str]:
            return unshowable(self.images, keys, title=f"{self.name}: pictures looked at")

        broken = told(look) if told else look()
        if not broken:
            return list(cases), ""
        kept = [case for case in cases if broken.keys().isdisjoint(case.images)]
        counted = f"{len(broken)} of {len(set(keys))} pictures that cannot be shown"
        if skip_broken and kept:
            left = f"{len(cases) - len(kept)} of {len(cases)} cases are left out"
            return kept, f"{self.name}: {left}, with {counted}"
        rows = [(c.where or c.id, key) for c in cases for key in dict.fromkeys(c.images)]
        lines = [f"  {where}: {broken[key]}" for where, key in rows if key in broken]
        if len(lines) > LISTED:
            lines[LISTED:] = [f"  and {len(lines) - LISTED} more"]
        way = (
            "no case would be left; mend them"
            if skip_broken
            else "mend them, or leave their cases out by --skip-broken (in training"
            " --data.skip_broken true)"
        )
        raise UserError(
            f"suite {self.name}: found {counted}, expected all whole; {way}:\n" + "\n".join(lines)
        )

    def _check_pictures(self, images: FolderImages, keys: Sequence[str]) -> None:
        wanted = list(dict.fromkeys(keys))
        absent = images.missing(wanted)
        if absent:
            places = ", ".join(
                f"{count} in {self.root / folder}" for folder, count in by_folder(absent).items()
            )
            raise UserError(
                f"suite {self.name}: found {len(absent)} of {len(wanted)} pictures missing"
                f" ({places}; the first is {absent[0]}), expected all; download the whole set,"
                f" or name a split that is whole ({', '.join(self.suite.info.splits)})"
            )

    def note(self, count: int) -> str:
        """A remark where the folder has another number of cases than was published, or ""."""
        published = self.suite.info.counts.get(self.split)
        if published is None or published == count:
            return ""
        return f"{self.name}:{self.split} has {count} cases here, {published} as published"


def open_suite(
    spec: SuiteSpec,
    *,
    training: bool = False,
    wording: Wording | None = None,
    text_only: bool = False,
) -> OpenSuite:
    """The suite of a spec. UserError: unknown name or split, wrong folder, licence against it."""
    _register_built_in()
    suite = SUITES.get(spec.name, setting="suite")
    info = suite.info
    if training and not info.trains:
        raise UserError(
            f"suite {info.name}: found in training data, but its terms ({info.licence}) forbid"
            " training; use it by --suite or --data.test"
        )
    split = spec.split or (training and info.trains_on) or info.splits[0]
    if split not in info.splits:
        raise UserError(
            f"suite {info.name}: found split {split!r}, expected one of {', '.join(info.splits)}"
        )
    if not spec.folder.is_dir():
        raise UserError(f"suite {info.name}: found no folder {spec.folder}, expected one")
    root = suite.find(spec.folder)
    if root is None:
        raise UserError(
            f"suite {info.name}: found another layout in {spec.folder}, expected {info.layout}"
        )
    return OpenSuite(
        suite=suite,
        split=split,
        root=root,
        images=suite.images(root),
        wording=wording or Wording(),
        text_only=text_only,
    )


def _left_out(refused: Sequence[Refused], count: int) -> str:
    """How many rows were refused, and every one by its id."""
    reasons: dict[str, list[str]] = {}
    for row in refused:
        reasons.setdefault(row.reason, []).append(row.id)
    told = "; ".join(f"{', '.join(ids)}: found {reason}" for reason, ids in reasons.items())
    return f"{len(refused)} of {count} rows left out ({told})"


def _mended(case: SuiteCase) -> tuple[SuiteCase, int]:
    """The case in characters that every encoder writes, and how many halves of pairs were not."""
    parts = (value for _, value in case.parts)
    plain = (case.goal or "", case.category, case.format, case.group, case.answer or "")
    if all(map(str.isascii, (*parts, *plain, *case.options, case.reply or ""))) and all(
        map(str.isascii, case.metadata.values())
    ):
        return case, 0  # nearly all are
    found = 0

    def whole(value: Any) -> Any:
        nonlocal found
        if isinstance(value, str):
            value, count = mended(value)
            found += count
        elif isinstance(value, tuple):
            value = tuple(whole(one) for one in value)
        elif isinstance(value, Mapping):
            value = {name: whole(one) for name, one in value.items()}
        return value

    changed = {one.name: whole(getattr(case, one.name)) for one in fields(case)}
    return (replace(case, **changed), found) if found else (case, 0)


def sampled(cases: Sequence[SuiteCase], limit: int, seed: str) -> list[SuiteCase]:
    """`limit` cases of as many groups, one each, in the file's order; all where there are fewer.

    Rows of one group are variants of one prompt, so a draw by row would count one prompt often.
    """
    groups: dict[str, list[int]] = {}
    for at, case in enumerate(cases):
        groups.setdefault(case.group or case.id, []).append(at)
    rng = random.Random(seed)
    names = list(groups)
    picked = rng.sample(names, min(limit, len(names)))
    return [cases[at] for at in sorted(rng.choice(groups[name]) for name in picked)]
