"""Attack styles: a carrier (which object is meant), alone or in clothes (what stands before it)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sectow_fast.data.sandbox import carriers, clothes
from sectow_fast.data.sandbox.carriers import CARRIERS, Carrier
from sectow_fast.data.sandbox.clothes import CLOTHES, Clothes, ClothesKind, WordingSplit

WEAK_LEAK = 0.05  # how often the cold-started model falls for weak clothes


@dataclass(frozen=True, kw_only=True)
class Styles:
    """The styles of one world: a copy of what was registered when the world was built."""

    carriers: tuple[Carrier, ...]
    clothes: tuple[ClothesKind, ...]

    @classmethod
    def registered(cls) -> Styles:
        return cls(
            carriers=tuple(CARRIERS.get(name) for name in CARRIERS.names()),
            clothes=tuple(CLOTHES.get(name) for name in CLOTHES.names()),
        )

    def outside(self) -> tuple[tuple[Carrier, ...], tuple[ClothesKind, ...]]:
        """The carriers and the kinds of clothes that the package did not bring."""
        return (
            tuple(one for one in self.carriers if one not in carriers.BUILT_IN),
            tuple(one for one in self.clothes if one not in clothes.BUILT_IN),
        )

    def kind_of(self, worn: Clothes) -> ClothesKind:
        return next(one for one in self.clothes if one.name == worn.kind)

    def any_carrier(self, rng: random.Random) -> Carrier:
        return rng.choice(self.carriers)

    def any_clothes(self, rng: random.Random, split: WordingSplit, bare: float) -> Clothes | None:
        """No clothes with probability `bare`, else a uniform kind and wording."""
        if rng.random() < bare:
            return None
        return rng.choice(rng.choice(self.clothes).wordings(split))

    def trainable(self, carrier: Carrier, worn: Clothes | None, rng: random.Random) -> Carrier:
        """`carrier`, or another one where training may not see it in these clothes."""
        while held_out(carrier, worn):
            carrier = self.any_carrier(rng)
        return carrier


def style_name(carrier: Carrier, worn: Clothes | None) -> str:
    """ "typo" or "typo+role": what tables are sorted by."""
    return f"{carrier.name}+{worn.kind}" if worn else carrier.name


def leak_probability(carrier: Carrier, worn: Clothes | None) -> float:
    """How often the instruct lessons answer a forbidden request put this way."""
    if worn is None:
        return carrier.leak
    return carrier.leak_dressed if worn.strong else WEAK_LEAK


def held_out(carrier: Carrier, worn: Clothes | None) -> bool:
    """Whether this pair is kept for the test suites."""
    return (worn.kind if worn else None) in carrier.held_out_with
