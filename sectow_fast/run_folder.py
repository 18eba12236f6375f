"""A run's folder: made, locked, written and resumed. Contract: docs/ARCHITECTURE.md, "The folder".

Nothing is half-written: every file is replaced whole, and metrics.jsonl is cut back to the last
checkpoint on resume.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import tomli_w

from sectow_fast.config import Config
from sectow_fast.types import UserError

# What a disk says where a file cannot be written; the last is a limit of the process.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


def unwritten(error: OSError, folder: Path) -> str | None:
    """What to tell of a `folder` that is written to, without how to go on; None where `error` is
    of something else than its disk."""
    if error.errno not in DISK:
        return None
    return f"{folder}: cannot be written ({error.strerror}); make room there"


def write_whole(path: Path, text: str) -> None:
    """Replace the file in one step, in UTF-8; neither a reader nor a kill leaves half of it."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


RUNS = ("config.toml", "checkpoints", "metrics.jsonl")  # what tells that a folder is a run's
MODELS = ("defender", "attacker", "coldstart", "rounds")  # folders that a run replaces whole


def kept_at(k: int) -> str:
    """Where in a run's folder the players are kept as they were at the end of round k."""
    return f"rounds/{k}" if k else "coldstart"


class RunFolder:
    """DIR/ of one run. Holds its lock until the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None

    @classmethod
    def create(cls, path: Path, config: Config) -> RunFolder:
        """A new run. UserError where the folder holds a run already or cannot be written."""
        folder = cls(path)
        if any((path / name).exists() for name in RUNS):
            folder._take_lock()  # a running one gets its own message
            raise UserError(
                f"--out {path}: found a run, expected a new or empty folder;"
                f" go on with it by --resume {path}, or choose another --out"
            )
        theirs = [name for name in MODELS if (path / name).exists()]
        if theirs:
            raise UserError(
                f"--out {path}: found {theirs[0]} in it, which a run would write over; expected a"
                " new or empty folder: choose another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder._take_lock()
            write_whole(path / "config.toml", config_toml(config))
        except OSError as error:
            raise UserError(
                f"--out {path}: cannot write there ({error.strerror});"
                " choose a folder that you may write"
            ) from None
        return folder

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """An earlier run that is to be continued. UserError where the folder holds none."""
        if not (path / "config.toml").is_file():
            raise UserError(
                f"--resume {path}: found no config.toml, expected the folder of a run;"
                " give the folder that --out named"
            )
        folder = cls(path)
        folder._take_lock()
        return folder

    def _take_lock(self) -> None:
        if not self.path.is_dir():
            return
        try:
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115 - held as long as the run
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path}: another run is writing here, expected none; wait for it to end,"
                " or choose another --out"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot write there ({error.strerror});"
                " choose a folder that you may write"
            ) from None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_json(self, name: str, value: Any) -> None:
        write_whole(self.path / name, json.dumps(value, indent=1, allow_nan=True) + "\n")


def config_toml(config: Config) -> str:
    """The complete configuration. TOML has no null, so an unset field (None) is left out, or is
    `"null"` where leaving it out would set it again (see `settings.load_config`)."""

    def written(value: Any, filled: Any) -> Any:
        if isinstance(value, dict):
            filled = filled if isinstance(filled, dict) else {}
            pairs = {name: written(item, filled.get(name)) for name, item in value.items()}
            return {name: item for name, item in pairs.items() if item is not None}
        return "null" if value is None and filled is not None else value

    values = config.model_dump(mode="json")
    again = Config.model_validate(written(values, None)).model_dump(mode="json")
    return tomli_w.dumps(written(values, again))
