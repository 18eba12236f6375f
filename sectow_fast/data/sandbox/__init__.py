"""The embedded world: a made-up language, drawn objects, attacks and suites. Nothing harmful.

A file outside the package adds an attack style by `register_carrier` or `register_clothes`.
"""

from sectow_fast.data.sandbox.carriers import Carrier, register_carrier
from sectow_fast.data.sandbox.clothes import ClothesKind, register_clothes
from sectow_fast.data.sandbox.objects import Thing
from sectow_fast.data.sandbox.world import SandboxWorld

__all__ = [
    "Carrier",
    "ClothesKind",
    "SandboxWorld",
    "Thing",
    "register_carrier",
    "register_clothes",
]
