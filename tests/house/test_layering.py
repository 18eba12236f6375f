"""Imports run downward only (docs/ARCHITECTURE.md). Read from the source, nothing is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sectow_fast"
# A room may import the rooms named here, itself, and BASE, which is open to all.
BASE = {
    "types",
    "config",
    "extras",
    "hashes",
    "intervals",
    "protocols",
    "records",
    "registry",
    "rounds",
} | {"texts"}
ALLOWED = {
    "types": set(),
    "config": {"extras"},
    "extras": set(),
    "hashes": set(),
    "intervals": {"types"},
    "protocols": {"types"},
    "records": {"rounds", "types"},
    "rounds": {"types"},
    "registry": {"types"},
    "texts": set(),
    "plugins": set(),
    "cli": {"plugins"},
    "ctrl_c": set(),
    "settings": {"cli", "plugins"},
    "check": {"cli", "ctrl_c", "data", "engine", "families", "learn", "model_folder"},
    "smol": {"cli", "data", "evaluate", "run_folder", "train"},
    "adapters": {"families", "kernels", "learn"},
    "families": set(),
    "model_folder": set(),
    "native": set(),
    "kernels": set(),
    "engine": {"families", "model_folder", "native"},
    "learn": {"engine", "families", "kernels", "model_folder", "native"},
    "data": {"families", "model_folder"},
    "report": set(),
    "serving": set(),
    "judges": {"data", "engine", "families", "serving"},
    "evaluation": {"cli", "data", "families", "judges", "model_folder", "run_folder"} | {"serving"},
    "evaluate": {"cli", "ctrl_c", "data", "evaluation", "judges", "report", "serving"}
    | {"run_folder"},
    "game": {"engine", "learn", "native"},
    "run_folder": set(),
    "match": {"game", "learn"},
    "players": {"engine", "game", "learn", "run_folder"},
    "fitting": {"engine", "learn", "players", "run_folder"},
    "ties": {"kernels", "learn", "run_folder"},
    "keeper": {"data", "game", "learn", "match", "players", "report", "run_folder", "ties"},
    "teaching": {"game", "match"},
    "tug": {"game", "learn", "match", "teaching"},
    "real": {"data", "game", "judges", "model_folder", "native", "serving"},
    "stages": {"data", "judges", "real"},
    "plan": {"engine", "game", "learn", "players", "stages"},
    "train": {"cli", "ctrl_c", "fitting", "kernels", "keeper", "learn", "match", "plan", "players"}
    | {"report", "run_folder", "settings", "stages", "ties", "tug"},
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms of ours that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == "sectow_fast":
                names = [f"sectow_fast.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("sectow_fast.")}
    return found


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    mine = room(path)
    below = set() if mine in BASE else BASE
    extra = imported(path) - ALLOWED[mine] - below - {mine, "_C" if path.stem == "core" else mine}
    assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_know_nothing_of_the_package(path):
    assert not imported(path)
    assert "sectow_fast" not in path.read_text()


def test_no_kernel_module_is_named_like_a_public_name():
    # Importing `kernels/NAME.py` binds NAME on the package and would hide a function NAME.
    from sectow_fast import kernels

    assert not {p.stem for p in (ROOT / "kernels").glob("*.py")} & set(kernels.__all__)
    for name in kernels.__all__:
        assert callable(getattr(kernels, name))
