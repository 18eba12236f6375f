"""The test suites, shaped like the benchmarks they are named after; test objects only.

They use the built-in styles alone, so that their figures mean the same whatever else is registered.
A carrier from outside has suites of its own, `carrier-NAME` (unsafe) and `carrier-NAME-harmless`;
a kind of clothes has `clothes-NAME` and `clothes-NAME-harmless`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence

from sectow_fast.data.sandbox import carriers, clothes
from sectow_fast.data.sandbox.carriers import CARRIERS, Carrier
from sectow_fast.data.sandbox.clothes import CLOTHES, Clothes, ClothesKind
from sectow_fast.data.sandbox.requests import Requests
from sectow_fast.data.sandbox.styles import Styles
from sectow_fast.types import Case

JAILBREAK_SUITES = ("figstep", "mm-safetybench", "jailbreakv", "safebench", "combinations")
OVER_REFUSAL_SUITES = ("over-refusal-clothes", "over-refusal-words")
UTILITY_SUITES = ("requests", "mmmu")
# What the cases of an unsafe suite alternate between: a carrier, and whether in strong clothes.
ALTERNATIVES = {
    "direct": (("text", False),),
    "figstep": (("typo", False),),
    "mm-safetybench": (("draw", False), ("draw", True)),
    "jailbreakv": (("text", True),),
    "safebench": (
        *(("split", False), ("description", False)),
        *(("split", True), ("description", True)),
    ),
}
MakeCase = Callable[[int, random.Random], Case]


def measures_of(styles: Styles) -> dict[str, str]:
    """Suite name -> what is measured on it, in the order of tables."""
    own_carriers, own_clothes = styles.outside()
    own = [f"carrier-{one.name}" for one in own_carriers]
    own += [f"clothes-{one.name}" for one in own_clothes]
    return (
        {"direct": "direct"}
        | dict.fromkeys(JAILBREAK_SUITES, "asr")
        | dict.fromkeys(OVER_REFUSAL_SUITES, "orr")
        | dict.fromkeys(UTILITY_SUITES, "accuracy")
        | dict.fromkeys(own, "asr")
        | dict.fromkeys([f"{name}-harmless" for name in own], "orr")
    )


def make_suites(requests: Requests, *, seed: int, size: int) -> dict[str, list[Case]]:
    """Suite name -> at most `size` cases, no two the same.

    A suite with fewer distinct cases is smaller: repeats would make its intervals too narrow.
    """
    makers = _unsafe(requests) | _harmless(requests)
    own_carriers, own_clothes = requests.styles.outside()
    for carrier in own_carriers:
        makers |= _own_carrier(requests, carrier)
    for kind in own_clothes:
        makers |= _own(requests, f"clothes-{kind.name}", CARRIERS.get("text"), [kind], bare=False)
    suites = {}
    for name, make in makers.items():
        rng = random.Random(f"{seed}/suite/{name}")
        suites[name] = distinct((make(i, rng) for i in itertools.count()), size)
    return suites


def _strong(rng: random.Random, kinds: Sequence[ClothesKind]) -> Clothes:
    return rng.choice(rng.choice(kinds).wordings("test", strong=True))


def _unsafe(requests: Requests) -> dict[str, MakeCase]:
    bad = requests.select(forbidden=True, test=True)

    def alternating(name: str) -> MakeCase:
        def make(i: int, rng: random.Random) -> Case:
            ways = ALTERNATIVES[name]
            carrier, dressed = ways[i % len(ways)]
            worn = _strong(rng, clothes.BUILT_IN) if dressed else None
            thing, more = rng.choice(bad), {"suite": name, "source": name}
            return requests.request(f"{name}-{i}", thing, CARRIERS.get(carrier), worn, rng, **more)

        return make

    held_out = sorted(
        (carrier.name, kind) for carrier in carriers.BUILT_IN for kind in carrier.held_out_with
    )

    def combinations(i: int, rng: random.Random) -> Case:
        carrier, kind = rng.choice(held_out)
        worn = rng.choice(CLOTHES.get(kind).wordings("test", strong=True))
        thing, more = rng.choice(bad), {"suite": "combinations", "source": "combinations"}
        return requests.request(
            f"combinations-{i}", thing, CARRIERS.get(carrier), worn, rng, **more
        )

    return {name: alternating(name) for name in ALTERNATIVES} | {"combinations": combinations}


def _harmless(requests: Requests) -> dict[str, MakeCase]:
    bad = requests.select(forbidden=True, test=True)
    good = requests.select(forbidden=False, test=True)

    def maker(name: str) -> MakeCase:
        more = {"suite": name, "source": name}

        def make(i: int, rng: random.Random) -> Case:
            carrier = rng.choice(carriers.BUILT_IN)
            if name == "over-refusal-clothes":
                worn = rng.choice(rng.choice(clothes.BUILT_IN).wordings("test"))
                return requests.request(f"{name}-{i}", rng.choice(good), carrier, worn, rng, **more)
            if name == "over-refusal-words":
                return requests.question(f"{name}-{i}", rng.choice(bad), carrier, rng, **more)
            if name == "requests":
                return requests.request(f"{name}-{i}", rng.choice(good), carrier, None, rng, **more)
            return requests.multiple_choice(f"{name}-{i}", rng.choice(bad + good), rng, **more)

        return make

    return {name: maker(name) for name in (*OVER_REFUSAL_SUITES, *UTILITY_SUITES)}


def _own_carrier(requests: Requests, carrier: Carrier) -> dict[str, MakeCase]:
    """Half of its cases are bare; the others wear what it is held out with, if anything."""
    kept = [kind for kind in requests.styles.clothes if kind.name in carrier.held_out_with]
    kinds = kept or requests.styles.clothes
    return _own(requests, f"carrier-{carrier.name}", carrier, kinds, bare=True)


def _own(
    requests: Requests, suite: str, carrier: Carrier, kinds: Sequence[ClothesKind], *, bare: bool
) -> dict[str, MakeCase]:
    """The two suites of one style. bare: every other case wears no clothes."""

    def maker(name: str, forbidden: bool) -> MakeCase:
        things = requests.select(forbidden=forbidden, test=True)
        more = {"suite": name, "source": name}

        def make(i: int, rng: random.Random) -> Case:
            worn = None if bare and i % 2 == 0 else _strong(rng, kinds)
            return requests.request(f"{name}-{i}", rng.choice(things), carrier, worn, rng, **more)

        return make

    harmless = f"{suite}-harmless"
    return {suite: maker(suite, True), harmless: maker(harmless, False)}


def distinct(cases: Iterable[Case], count: int) -> list[Case]:
    """The first `count` cases that differ in words or picture, of at most 40 x count drawn."""
    found: dict[tuple[str, str | None], Case] = {}
    for case in itertools.islice(cases, 40 * count):
        found.setdefault((case.text, case.image), case)
        if len(found) == count:
            break
    return list(found.values())
