"""The test suites, shaped like the benchmarks they are named after; test objects only."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sectow_fast.data.sandbox import styles
from sectow_fast.data.sandbox.styles import Clothes
from sectow_fast.types import Case

if TYPE_CHECKING:
    from sectow_fast.data.sandbox.world import SandboxWorld


def make_suites(world: SandboxWorld) -> dict[str, list[Case]]:
    """Suite name -> at most `config.suite_size` cases, no two the same.

    A suite with fewer distinct cases is smaller: repeats would make its intervals too narrow.
    """
    bad = world.select(forbidden=True, test=True)
    good = world.select(forbidden=False, test=True)
    kinds = list(styles.WORDINGS)
    count = world.config.suite_size

    def strong(rng: random.Random) -> Clothes:
        return Clothes(kind=rng.choice(kinds), wording=rng.choice(styles.TEST_STRONG))

    def unsafe(name: str, i: int, rng: random.Random) -> Case:
        clothes: Clothes | None = None
        carrier = "text"
        if name == "figstep":
            carrier = "typo"
        elif name == "mm-safetybench":
            carrier, clothes = "draw", strong(rng) if i % 2 else None
        elif name == "jailbreakv":
            clothes = strong(rng)
        elif name == "safebench":
            carrier = ("split", "description")[i % 2]
            clothes = strong(rng) if i % 4 >= 2 else None
        elif name == "combinations":
            carrier, kind = rng.choice(sorted(styles.HELD_OUT))
            clothes = Clothes(kind=kind, wording=rng.choice(styles.TEST_STRONG))
        thing = rng.choice(bad)
        return world.request(f"{name}-{i}", thing, carrier, clothes, rng, suite=name, source=name)

    def harmless(name: str, i: int, rng: random.Random) -> Case:
        more = {"suite": name, "source": name}
        carrier = rng.choice(styles.CARRIERS)
        if name == "over-refusal-clothes":
            clothes = Clothes(kind=rng.choice(kinds), wording=rng.choice(styles.TEST))
            return world.request(f"{name}-{i}", rng.choice(good), carrier, clothes, rng, **more)
        if name == "over-refusal-words":
            return world.question(f"{name}-{i}", rng.choice(bad), carrier, rng, **more)
        if name == "requests":
            return world.request(f"{name}-{i}", rng.choice(good), carrier, None, rng, **more)
        return world.multiple_choice(f"{name}-{i}", rng.choice(bad + good), rng, **more)

    suites: dict[str, list[Case]] = {}
    unsafe_names = ("direct", "figstep", "mm-safetybench", "jailbreakv", "safebench")
    for name in (*unsafe_names, "combinations"):
        rng = random.Random(f"{world.seed}/suite/{name}")
        suites[name] = distinct((unsafe(name, i, rng) for i in itertools.count()), count)
    for name in ("over-refusal-clothes", "over-refusal-words", "requests", "mmmu"):
        rng = random.Random(f"{world.seed}/suite/{name}")
        suites[name] = distinct((harmless(name, i, rng) for i in itertools.count()), count)
    return suites


def distinct(cases: Iterable[Case], count: int) -> list[Case]:
    """The first `count` cases that differ in words or picture, of at most 40 x count drawn."""
    found: dict[tuple[str, str | None], Case] = {}
    for case in itertools.islice(cases, 40 * count):
        found.setdefault((case.text, case.image), case)
        if len(found) == count:
            break
    return list(found.values())
