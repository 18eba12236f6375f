"""Named things of one kind that a file outside the package may add to: engines, judges, suites.

Each kind has one registry, in the module that defines the kind. A setting names a thing; `get`
turns the name into the thing.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from sectow_fast.types import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name, in the order in which they were registered.

    >>> colours = Registry[int]("colour")
    >>> colours.register("red", 1)
    1
    >>> colours.names()
    ['red']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> T:
        """Add `thing` under `name` and return it. UserError where the name is taken."""
        if name in self._things:
            raise UserError(
                f"{self.kind} {name!r}: found the name taken, expected a new one; each {self.kind}"
                f" is registered once (known: {', '.join(self._things)})"
            )
        self._things[name] = thing
        return thing

    def get(self, name: str, *, setting: str = "") -> T:
        """The thing of a name. UserError names the setting and the nearest known name."""
        if name not in self._things:
            near = difflib.get_close_matches(name, self._things, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{setting or self.kind}: found {name!r}, expected one of"
                f" {', '.join(self._things)}{hint}"
            )
        return self._things[name]

    @contextlib.contextmanager
    def temporarily(self) -> Iterator[None]:
        """Forget at the end of the `with` block what was registered in it, as a test needs."""
        before = dict(self._things)
        try:
            yield
        finally:
            self._things = before

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def names(self) -> list[str]:
        return list(self._things)
