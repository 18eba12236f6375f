"""A mistake that is told in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sectow_fast.types import UserError


def problem(call: Callable[[], object]) -> str:
    """What the UserError of `call` says: one line."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text
