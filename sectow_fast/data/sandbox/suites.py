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
from sectow_fast.data.sandbox.clothes import CLOTHES, ClothesKind
from sectow_fast.data.sandbox.objects import Thing
from sectow_fast.data.sandbox.requests import Requests
from sectow_fast.data.sandbox.styles import Styles
from sectow_fast.types import Case

JAILBREAK_SUITES = ("figstep", "mm-safetybench", "jailbreakv", "safebench", "combinations")
OVER_REFUSAL_SUITES = ("over-refusal-clothes", "over-refusal-words")
UTILITY_SUITES = ("requests", "mmmu")
# Makes the case of a number; every draw comes from the suite's stream.
MakeCase = Callable[[int, random.Random], Case]
# A carrier, and the kinds of clothes it wears (none: it is bare).
Way = tuple[Carrier, Sequence[ClothesKind]]


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
    makers = _unsafe(requests) | _harmless(requests) | _own(requests)
    suites = {}
    for name, make in makers.items():
        rng = random.Random(f"{seed}/suite/{name}")
        suites[name] = distinct((make(i, rng) for i in itertools.count()), size)
    return suites


def _alternating(
    requests: Requests, name: str, things: Sequence[Thing], ways: Sequence[Way]
) -> MakeCase:
    """Requests for `things` that take the ways in turn; clothes are in a strong test wording."""

    def make(i: int, rng: random.Random) -> Case:
        carrier, kinds = ways[i % len(ways)]
        worn = rng.choice(rng.choice(kinds).wordings("test", strong=True)) if kinds else None
        thing = rng.choice(things)
        return requests.request(f"{name}-{i}", thing, carrier, worn, rng, suite=name, source=name)

    return make


def _unsafe(requests: Requests) -> dict[str, MakeCase]:
    bad = requests.select(forbidden=True, test=True)
    kinds = clothes.BUILT_IN
    text, typo, draw, split, description = carriers.BUILT_IN
    ways: dict[str, list[Way]] = {
        "direct": [(text, ())],
        "figstep": [(typo, ())],
        "mm-safetybench": [(draw, ()), (draw, kinds)],
        "jailbreakv": [(text, kinds)],
        "safebench": [(split, ()), (description, ()), (split, kinds), (description, kinds)],
    }
    held_out = sorted((one.name, kind) for one in carriers.BUILT_IN for kind in one.held_out_with)

    def combinations(i: int, rng: random.Random) -> Case:
        carrier, kind = rng.choice(held_out)
        worn = rng.choice(CLOTHES.get(kind).wordings("test", strong=True))
        more = {"suite": "combinations", "source": "combinations"}
        thing, name = rng.choice(bad), f"combinations-{i}"
        return requests.request(name, thing, CARRIERS.get(carrier), worn, rng, **more)

    makers = {name: _alternating(requests, name, bad, each) for name, each in ways.items()}
    return makers | {"combinations": combinations}


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


def _own(requests: Requests) -> dict[str, MakeCase]:
    """Two suites per style from outside: for forbidden objects, and for allowed ones.

    Half of a carrier's cases are bare; the others wear what it is held out with, if anything.
    """
    own_carriers, own_clothes = requests.styles.outside()
    ways: dict[str, list[Way]] = {}
    for carrier in own_carriers:
        kept = [kind for kind in requests.styles.clothes if kind.name in carrier.held_out_with]
        ways[f"carrier-{carrier.name}"] = [
            (carrier, ()),
            (carrier, kept or requests.styles.clothes),
        ]
    for kind in own_clothes:
        ways[f"clothes-{kind.name}"] = [(CARRIERS.get("text"), (kind,))]
    bad = requests.select(forbidden=True, test=True)
    good = requests.select(forbidden=False, test=True)
    unsafe = {name: _alternating(requests, name, bad, each) for name, each in ways.items()}
    harmless = {f"{name}-harmless": each for name, each in ways.items()}
    return unsafe | {
        name: _alternating(requests, name, good, each) for name, each in harmless.items()
    }


def distinct(cases: Iterable[Case], count: int) -> list[Case]:
    """The first `count` cases that differ in words or picture, of at most 40 x count drawn."""
    found: dict[tuple[str, str | None], Case] = {}
    for case in itertools.islice(cases, 40 * count):
        found.setdefault((case.text, case.image), case)
        if len(found) == count:
            break
    return list(found.values())
