"""The second world: harm is an object for a purpose, attacks are stacks, attackers see pictures.

- `things.py`: objects, purposes, what is forbidden, recipes. `pictures.py`: what pictures show.
- `families.py`: layers of clothes. `weakness.py`: what the cold-started model falls for.
- `ways.py`: what an attack makes of a picture. `language.py`: requests and attacks in words.
- `stacks.py`, `suites.py`, `lessons.py`: draws of layers, test suites, cold starts.
- `world.py`: all of it as the `World` of a run.

A file outside the package adds a family by `register_family`, a way by `register_way`.
"""

from sectow_fast.data.dual.families import Family, register_family
from sectow_fast.data.dual.things import Goal, Thing
from sectow_fast.data.dual.ways import Way, painted, register_way
from sectow_fast.data.dual.world import DualWorld

__all__ = [
    "DualWorld",
    "Family",
    "Goal",
    "Thing",
    "Way",
    "painted",
    "register_family",
    "register_way",
]
