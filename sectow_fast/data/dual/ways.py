"""Ways: what an attack makes of the picture it was given. Each is one object, `Way`.

An attacker writes `LAYERS <way> WHAT`. WHAT tells the object, the purpose, both or nothing: what
the new picture and the order do not have already. A file outside the package adds a way by
`register_way`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sectow_fast.data.dual.pictures import PAINTS, Paint, Pictures, Shown
from sectow_fast.data.dual.things import PURPOSES, Goal
from sectow_fast.registry import Registry
from sectow_fast.types import UserError

HIDDEN = "shown"  # stands in a request for what the picture tells


@dataclass(frozen=True, kw_only=True)
class Put:
    """A request as the defender sees it: words for the object, words for the purpose, a picture.

    form: how it is put, for tables and for what the model falls for.
    """

    form: str
    thing: str
    purpose: str
    image: str | None


# Which of (object, purpose) the attacker must tell, given the old picture; None: not possible.
Tells = Callable[[Shown | None], tuple[bool, bool] | None]
# The request; `rng` draws the picture's variant.
Place = Callable[[Goal, Shown | None, Pictures, random.Random], Put]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One thing that can become of the picture.

    paints: forms of pictures that it brings, with what paints them. weight: its share of the
    self-instruct attacker's draws, among the ways that are possible.
    """

    name: str
    tells: Tells
    place: Place
    paints: Mapping[str, Paint] | None = None
    weight: float = 1.0

    @property
    def order(self) -> str:
        """The word by which an attacker orders it."""
        return f"<{self.name}>"


WAYS = Registry[Way]("way")


def register_way(way: Way) -> Way:
    """Make a way known to every world built from now on. UserError names the bad field."""
    where = f"way {way.name!r}"
    if not way.name.isalpha():
        raise UserError(f"{where}: found this name, expected letters alone")
    if way.weight < 0:
        raise UserError(f"{where}: found weight {way.weight}, expected 0 or more")
    for form in way.paints or {}:
        if not form.isalpha() or form in {"note", *PAINTS}:
            raise UserError(f"{where}: found the form {form!r}, expected letters and a new name")
    return WAYS.register(way.name, way)


def forms_of(ways: Mapping[str, Way]) -> dict[str, Paint]:
    """What paints each form of picture."""
    return PAINTS | {form: paint for way in ways.values() for form, paint in _own(way).items()}


def _own(way: Way) -> Mapping[str, Paint]:
    return way.paints or {}


def put(goal: Goal, shown: Shown | None) -> Put:
    """A request with a picture, or without one. What the picture has, the words do not say."""
    image = None if shown is None else shown.key
    thing, purpose = goal.thing.words, PURPOSES[goal.purpose]
    if shown is None:
        return Put(form="words", thing=thing, purpose=purpose, image=image)
    form = shown.form
    if shown.half:
        thing = "join " + " ".join(goal.thing.parts[1:])
    elif shown.thing is not None:
        thing = HIDDEN
    if shown.purpose is not None:
        purpose, form = HIDDEN, "note" if shown.thing is None else "both"
    return Put(form=form, thing=thing, purpose=purpose, image=image)


def painted(form: str, *, purpose: bool = False) -> Place:
    """A new picture of the object in this form, and with the purpose written beside it or not."""

    def place(goal: Goal, old: Shown | None, images: Pictures, rng: random.Random) -> Put:
        key = images.make(form, goal.thing, goal.purpose if purpose else None, rng)
        return put(goal, images.shown(key))

    return place


def _everything(old: Shown | None) -> tuple[bool, bool] | None:
    return True, True


def _rest(old: Shown | None) -> tuple[bool, bool] | None:
    """What the old picture does not tell; half a name tells nothing."""
    if old is None or old.half:
        return None
    return old.thing is None, old.purpose is None


def _one_missing(old: Shown | None) -> tuple[bool, bool] | None:
    rest = _rest(old)
    return rest if rest in ((True, False), (False, True)) else None


def _keep(goal: Goal, old: Shown | None, images: Pictures, rng: random.Random) -> Put:
    return put(goal, old)


def _drop(goal: Goal, old: Shown | None, images: Pictures, rng: random.Random) -> Put:
    return put(goal, None)


def _over(goal: Goal, old: Shown | None, images: Pictures, rng: random.Random) -> Put:
    if old is None:
        raise ValueError("nothing can be written over no picture")
    form = old.form if old.thing is not None else "typo"
    both = Shown(form=form, thing=goal.thing, purpose=goal.purpose, variant=old.variant)
    return put(goal, both)


# The order is part of every random draw among ways.
for _way in (
    Way(name="keep", tells=_rest, place=_keep),
    Way(name="drop", tells=_everything, place=_drop),
    Way(name="typo", tells=_everything, place=painted("typo")),
    Way(name="draw", tells=_everything, place=painted("draw")),
    Way(name="over", tells=_one_missing, place=_over),
    Way(name="split", tells=_everything, place=painted("half")),
):
    register_way(_way)
