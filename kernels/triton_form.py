"""Triton functions in files that must import where Triton is not installed.

`@triton.jit` needs Triton when a file is imported. `@TritonForm` keeps the Python function, and the
Triton function is made on first use. So a loss has its torch form and its Triton form side by side,
and a CPU run imports no Triton.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable


class TritonForm:
    """A decorator in place of `triton.jit`. The function may use `tl`, which is triton.language.

    It may call other functions of its file that are decorated in the same way. For linters and type
    checkers the file says

        if TYPE_CHECKING:
            import triton.language as tl
    """

    def __init__(self, function: Callable[..., object]) -> None:
        """ValueError where the function reads variables of a function around it."""
        outer = function.__code__.co_freevars
        if outer:
            raise ValueError(
                f"@TritonForm {function.__qualname__}: found variables of the function around it"
                f" ({', '.join(outer)}), expected arguments and names of the module only; define"
                " it at the top of its file"
            )
        self.function = function

    @functools.cached_property
    def jit(self):
        """What `triton.jit` makes of the function: compiled on a GPU, or for the interpreter."""
        import triton
        import triton.language

        function = self.function
        # Triton reads names from the function's globals. They are copied, so that neither `tl` nor
        # the Triton functions appear in the file itself.
        names = {**function.__globals__, "tl": triton.language}
        for name in function.__code__.co_names:
            if isinstance(names.get(name), TritonForm):
                names[name] = names[name].jit
        copy = types.FunctionType(function.__code__, names, function.__name__)
        copy.__module__ = function.__module__
        copy.__qualname__ = function.__qualname__
        copy.__annotations__ = function.__annotations__
        copy.__defaults__ = function.__defaults__
        return triton.jit(copy)
