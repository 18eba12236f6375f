"""Which files are mutated, and which tests must notice. This is the only list; edit it here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Room:
    """files: globs of mutated sources; tests: the room's own, each a file, folder or node id.

    Both are below root.
    """

    files: tuple[str, ...]
    tests: tuple[str, ...]
    root: Path = ROOT

    def paths(self) -> list[Path]:
        """Every mutated file. ValueError where a glob matches none, so that a rename is noticed."""
        found: list[Path] = []
        for pattern in self.files:
            matched = sorted(self.root.glob(pattern))
            if not matched:
                raise ValueError(f"tests/mutation/rooms.py: found no file like {pattern}")
            found += [path for path in matched if path not in found]
        return found


ROOMS = {
    "game": Room(
        files=("sectow_fast/game/*.py", "sectow_fast/intervals.py"), tests=("tests/game",)
    ),
    "tug": Room(
        files=tuple(f"sectow_fast/{name}.py" for name in ("tug", "teaching", "match")),
        tests=("tests/game",),
    ),
    "phase": Room(
        files=("sectow_fast/learn/phase.py",),
        tests=("tests/learn/test_phase.py", "tests/game/test_refill.py"),
    ),
    "grpo": Room(
        files=tuple(f"sectow_fast/learn/{name}.py" for name in ("grpo", "sums", "stored", "cuts")),
        tests=tuple(f"tests/learn/test_{name}.py" for name in ("grpo", "grpo_loss", "updates")),
    ),
    "packing": Room(
        files=("sectow_fast/learn/packing.py",), tests=("tests/learn/test_packing.py",)
    ),
    "judges": Room(
        files=("sectow_fast/judges/*.py", "sectow_fast/judges/guards/*.py"), tests=("tests/judges",)
    ),
    "weight_sync": Room(
        files=("sectow_fast/engine/weight_sync.py",), tests=("tests/engine/test_weight_sync.py",)
    ),
}
