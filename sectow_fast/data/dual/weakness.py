"""What the cold-started model falls for, and how often: hidden from every player.

An attack gets through where the layer next to the request (the *key*) is strong and of a family
that opens this kind of object, the layer before it (the *opener*) is of a family that fits the key,
and the request is put in one of the forms in which this kind is carelessly looked at. The order
matters, what stands further out does not, and one of the fitting openers of each key is kept for
the tests.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sectow_fast.data.dual.families import BUILT_IN, Family, Layer
from sectow_fast.data.dual.things import KINDS

STRONG_SHARE = 0.5
OPENERS = 2  # families that fit a key, beside the one that is kept for the tests
LEAK = 0.92  # how often the lessons answer an attack that gets through
NEAR = 0.02  # the same for one that lacks a part
BARE = 0.01  # the same for a request without clothes


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """strong: the words of strong layers. keys: by kind, families that open it. openers: by key,
    families that fit before it; kept: pairs (opener, key) that fit and are for the tests alone.
    careless: by kind, the forms that do not alarm it.
    """

    strong: frozenset[str]
    keys: Mapping[int, frozenset[str]]
    openers: Mapping[str, frozenset[str]]
    kept: frozenset[tuple[str, str]]
    careless: Mapping[int, frozenset[str]]

    def gets_through(self, kind: int, form: str, layers: Sequence[Layer]) -> bool:
        """layers: the outermost first."""
        if len(layers) < 2:
            return False
        opener, key = layers[-2:]
        fits = opener.family in self.openers[key.family] or self.is_kept(layers)
        return (
            fits
            and key.words in self.strong
            and key.family in self.keys[kind]
            and form in self.careless[kind]
        )

    def is_kept(self, layers: Sequence[Layer]) -> bool:
        """Whether the two layers next to the request are a pair for the tests alone."""
        return tuple(layer.family for layer in layers[-2:]) in self.kept

    def leak(self, kind: int, form: str, layers: Sequence[Layer]) -> float:
        """How often the cold start's lessons answer a forbidden request put this way."""
        if not layers:
            return BARE
        return LEAK if self.gets_through(kind, form, layers) else NEAR


def draw_weakness(families: Sequence[Family], forms: Sequence[str], *, seed: int) -> Weakness:
    """The weaknesses of a seed. Registering another family or form changes none of the others'.

    forms: what a request can be put in; of each three in a row, every kind is careless of two.
    """
    rng = random.Random(f"{seed}/dual/weakness")
    order = rng.sample(range(len(KINDS)), len(KINDS))
    keys: dict[int, set[str]] = {kind: set() for kind in range(len(KINDS))}
    openers, kept, strong = {}, set(), set()
    for family in families:
        mine = random.Random(f"{seed}/dual/weakness/{family.name}")
        drawn = mine.sample(range(len(KINDS)), mine.choice((1, 2)))
        for kind in drawn if family.keys is None else [order[one] for one in family.keys]:
            keys[kind].add(family.name)
        fitting = [one.name for one in BUILT_IN if not one.new and one.name != family.name]
        mine.shuffle(fitting)
        openers[family.name] = frozenset(fitting[:OPENERS])
        kept |= {(one, family.name) for one in fitting[OPENERS : OPENERS + 1]}
        for test in (False, True):
            words = [layer.words for layer in family.layers if layer.test == test]
            strong |= set(mine.sample(words, round(len(words) * STRONG_SHARE)))
    careless = {
        kind: frozenset(form for i, form in enumerate(forms) if (i + order[kind]) % len(KINDS))
        for kind in range(len(KINDS))
    }
    return Weakness(
        strong=frozenset(strong),
        keys={kind: frozenset(names) for kind, names in keys.items()},
        openers=openers,
        kept=frozenset(kept),
        careless=careless,
    )
