"""Which card is here, asked without torch, and what keeps `make gpu` from building there."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# outlines-core 0.1.26, which SGLang 0.5.23 wants, has wheels for these and no later ones.
PYTHONS = ((3, 11), (3, 12))
GLIBC = (2, 34)  # that of SGLang 0.5.23's wheel
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


@dataclass(frozen=True, kw_only=True)
class Card:
    """name: as the driver says it, or the processor's in a rehearsal. driver: empty there."""

    name: str
    driver: str = ""

    @property
    def folder(self) -> str:
        """The name as a folder's: "nvidia-h100-80gb-hbm3"."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


def card(command: Sequence[str] = QUERY) -> Card | None:
    """The first card of this machine; None where the driver's tool is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    if not lines:
        return None
    name, _, driver = lines[0].rpartition(",")
    return Card(name=name.strip(), driver=driver.strip())


def refusal(*, python: tuple[int, int], system: str, glibc: str, card: Card | None) -> str | None:
    """Why constraints-gpu.txt cannot be installed here, in one line; None where it can. glibc: its
    version, empty where the C library is another one."""
    if system != "Linux x86_64":
        return f"make gpu: found {system}, expected Linux x86_64, for which SGLang's parts are made"
    if tuple(int(one) for one in glibc.split(".") if one) < GLIBC:
        wanted = ".".join(map(str, GLIBC))
        return (
            f"make gpu: found glibc {glibc or 'none'}, expected {wanted} or later, for which"
            " SGLang's wheel is made"
        )
    if python not in PYTHONS:
        wanted = " or ".join(f"{a}.{b}" for a, b in PYTHONS)
        return (
            f"make gpu: found Python {python[0]}.{python[1]}, expected {wanted}, for which the set"
            " in constraints-gpu.txt has wheels; name another by make gpu PYTHON=python3.12"
        )
    if card is None:
        return (
            "make gpu: found no CUDA card (nvidia-smi names none), expected one; without a card"
            " `make test` builds what the tests need"
        )
    return None


def main() -> int:
    system = f"{platform.system()} {platform.machine()}"
    why = refusal(
        python=sys.version_info[:2], system=system, glibc=platform.libc_ver()[1], card=card()
    )
    if why is not None:
        print(why, file=sys.stderr)
    return 0 if why is None else 2


if __name__ == "__main__":
    sys.exit(main())
