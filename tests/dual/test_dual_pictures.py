"""Pictures of the dual world: marks that can be found, and what is written over a picture."""

from __future__ import annotations

import numpy as np
import pytest

from sectow_fast.config import SandboxConfig
from sectow_fast.data.dual import DualWorld
from sectow_fast.data.dual.pictures import BLANK, INKS, MARK, SIDE
from sectow_fast.data.dual.things import COLOURS
from sectow_fast.types import UserError

WORLD = DualWorld(seed=3, config=SandboxConfig(suite_size=20, world="dual"))
GOODS = WORLD.language.goods


def pixels(key: str) -> np.ndarray:
    return np.asarray(WORLD.images.open(key), dtype=int)


def test_the_kind_is_a_small_mark_at_one_corner_in_ink_that_no_object_has():
    assert not set(INKS) & set(COLOURS.values())
    for thing in GOODS.things[::7]:
        for variant in range(3):
            shown = pixels(f"draw/{thing.number}/-/{variant}")
            near = np.abs(shown - INKS[thing.kind]).max(-1) < 40
            rows, columns = np.nonzero(near)
            assert 16 <= near.sum() <= MARK * MARK + 8, thing
            at = [np.median(places) > SIDE // 2 for places in (rows, columns)]
            corner = near[SIDE - MARK :] if at[0] else near[:MARK]
            corner = corner[:, SIDE - MARK :] if at[1] else corner[:, :MARK]
            assert corner.sum() >= 0.7 * near.sum(), thing


def test_what_is_written_over_a_picture_leaves_the_rest_as_it_was():
    for form in ("draw", "typo"):
        plain, over = pixels(f"{form}/9/-/1"), pixels(f"{form}/9/3/1")
        changed = np.abs(plain - over).sum(-1).any(1)
        assert changed.any() and changed.sum() <= 12


def test_a_picture_that_is_not_there_is_refused():
    assert WORLD.images.open(BLANK).getcolors() == [(SIDE * SIDE, (20, 20, 20))]
    for key in ("draw/9999/-/0", "draw/1/-/99", "note/1/1/0", "note/-/-/0", "wall/1/-/0", "draw/1"):
        with pytest.raises(UserError, match=f"image '{key}': found no such picture"):
            WORLD.images.open(key)
