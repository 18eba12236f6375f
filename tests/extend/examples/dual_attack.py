"""The dual world: a family of layers, and one more thing that can become of the picture.

python -m sectow_fast.train --preset sandbox-dual --plugins dual_attack.py
"""

from __future__ import annotations

import random

from PIL import ImageDraw, ImageFont

from sectow_fast.data.dual import Family, Thing, Way, painted, register_family, register_way


def mirrored(draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> int:
    """The name written backwards; returns where a second line has room."""
    draw.text(
        (1, 1), thing.name[::-1], fill=(235, 235, 235), font=ImageFont.load_default_imagefont()
    )
    return 19


register_family(
    Family(name="song", opening="sing", train=("low", "high", "fast", "slow"), test=("la", "lo"))
)
register_way(
    Way(
        name="mirror",
        tells=lambda old: (True, True),  # the attacker tells object and purpose, whatever it sees
        place=painted("mirror"),
        paints={"mirror": mirrored},
    )
)
