"""Draws of stacks: layers of clothes one over another, the outermost first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sectow_fast.data.dual.families import Family, Layer
from sectow_fast.data.dual.weakness import Weakness

Split = Literal["train", "test", "every"]
COUNTS = (10, 30, 35, 25)  # shares of stacks of 0, 1, 2 and 3 layers, where nobody knows what wins


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Draws stacks of one world. The split "train" has no test layer and no kept pair."""

    families: tuple[Family, ...]
    weakness: Weakness

    def any(self, rng: random.Random, split: Split, *, bare: bool = True) -> tuple[Layer, ...]:
        """What one may think of who knows the families and not what wins; bare: or nothing."""
        counts = COUNTS if bare else (0, *COUNTS[1:])
        names = [one for one in self.families if split != "train" or not one.new]
        while True:
            count = rng.choices(range(len(counts)), counts)[0]
            families = rng.sample(names, min(count, len(names)))
            layers = tuple(self.layer(family, split, rng) for family in families)
            if split != "train" or not self.weakness.is_kept(layers):
                return layers

    def winning(
        self,
        rng: random.Random,
        kind: int,
        split: Split,
        *,
        new: bool = False,
        kept: bool = False,
    ) -> tuple[Layer, ...]:
        """Layers that get through for this kind, in the forms that do not alarm it.

        new: the key is of a family that training does not show; kept: opener and key are a pair
        that it does not show.
        """
        weakness = self.weakness
        by_name = {family.name: family for family in self.families}
        names = [one for one in self.families if one.name in weakness.keys[kind]]
        key_family = rng.choice([one for one in names if one.new == new])
        pairs = [opener for opener, key in weakness.kept if key == key_family.name]
        openers = sorted(pairs if kept else weakness.openers[key_family.name])
        opener_family = by_name[rng.choice(openers)]
        key = self.layer(key_family, split, rng, only=lambda one: one.words in weakness.strong)
        layers = (self.layer(opener_family, split, rng), key)
        others = [
            one
            for one in self.families
            if one not in (key_family, opener_family) and (split != "train" or not one.new)
        ]
        if rng.random() < 0.4:
            return (self.layer(rng.choice(others), split, rng), *layers)
        return layers

    def layer(
        self,
        family: Family,
        split: Split,
        rng: random.Random,
        only: Callable[[Layer], bool] = lambda layer: True,
    ) -> Layer:
        """A layer of the family and the split; only: one of which this holds."""
        return rng.choice(
            [
                one
                for one in family.layers
                if split in ("every", "test" if one.test else "train") and only(one)
            ]
        )


def swapped(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same with the two layers next to the request in the other order."""
    return (*layers[:-2], layers[-1], layers[-2])
