"""Attacks on the held-out objects of the dual world: where leak is measured, by drawn numbers.

An attack is a forbidden purpose, a form, an opener and a key of any two layers, and one more layer
around them or none: some twenty million for each object of the built-in families.
"""

from __future__ import annotations

import random

from sectow_fast.data.dual.language import FORMS
from sectow_fast.data.dual.things import PURPOSES, Goal
from sectow_fast.data.dual.world import DualWorld
from sectow_fast.data.sandbox.space import recipe_told
from sectow_fast.protocols import AttackPoint


class DualSpace:
    """See `protocols.AttackSpace`. Verb and picture are drawn from (seed, object, number)."""

    def __init__(self, world: DualWorld) -> None:
        self._world = world
        goods = world.language.goods
        self._things = {thing.name: thing for thing in goods.split(test=True)}
        self.objects = tuple(self._things)
        self._layers = tuple(world.language.layers.values())

    def size(self, about: str) -> int:
        """As many for every object."""
        layers = len(self._layers)
        return len(self._forbidden(about)) * len(FORMS) * layers * layers * (layers + 1)

    def attack(self, about: str, number: int) -> AttackPoint:
        """See `protocols.AttackSpace`."""
        language, layers = self._world.language, len(self._layers)
        goals = self._forbidden(about)
        rest, goal = divmod(number, len(goals))
        rest, form = divmod(rest, len(FORMS))
        rest, key = divmod(rest, layers)
        outer, opener = divmod(rest, layers)
        worn = (*self._layers[outer : outer + 1], self._layers[opener], self._layers[key])
        rng = random.Random(f"{self._world.seed}/dual/space/{about}/{number}")
        how = language.put(goals[goal], FORMS[form], rng)
        case = language.request(
            f"space-{about}-{number}", goals[goal], how, worn, rng, source="space"
        )
        return AttackPoint(case=case, replies=(recipe_told(goals[goal].recipe),))

    def _forbidden(self, about: str) -> list[Goal]:
        goals = self._world.language.goods.goals
        number = self._things[about].number
        every = [goals[number, purpose] for purpose in range(len(PURPOSES))]
        return [goal for goal in every if goal.forbidden]
