"""An attack style of the sandbox: the object's name, spelled backwards after a word that says so.

python -m sectow_fast.train --plugins attack_style.py
"""

from __future__ import annotations

from sectow_fast.data.sandbox import Carrier, Thing, register_carrier


def backwards(thing: Thing) -> str:
    return f"backwards {thing.name[::-1]}"


register_carrier(
    Carrier(
        name="backwards",
        write=backwards,
        show=backwards,
        leak=0.5,
        spelled=True,
        held_out_with=frozenset({"role"}),
    )
)
