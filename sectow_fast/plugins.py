"""Files and modules outside the package that register things before settings are read.

`--plugins my_loss.py,their_package.engines` imports both. What they register (a policy loss, an
engine, an attack style, a reward term, a suite, a judge, a model family) can then be named in any
setting.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from sectow_fast.types import UserError


def load_plugins(names: Sequence[str]) -> None:
    """Import each file or module once. UserError where it cannot be found or fails to import."""
    for name in names:
        if name.endswith(".py"):
            _load_file(Path(name))
        else:
            _load_module(name)


def _load_file(path: Path) -> None:
    path = path.resolve()
    # The whole path is the module's name, so that two files of one name do not collide.
    key = f"sectow_plugin:{path}"
    if key in sys.modules:
        return
    if not path.is_file():
        raise UserError(f"plugins {path}: found no such file, expected a Python file")
    spec = importlib.util.spec_from_file_location(key, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        del sys.modules[key]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise UserError(
            f"plugins {path}: found an error while importing it"
            f" ({type(error).__name__}: {error}); mend the file"
        ) from error


def _load_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        raise UserError(
            f"plugins {name or repr(name)}: cannot be imported ({error}), expected a module that"
            " Python finds, or a path that ends in .py"
        ) from None
