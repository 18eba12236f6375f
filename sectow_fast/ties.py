"""What a checkpoint is tied to: the run that goes on from it must be the run that wrote it.

A tie is a flat table, {what: its value or the hash of its content}: every setting, the chat
template, the files of the models that were given, the data's rows and pictures, the code. It is
made once per start, before a model is loaded, and every checkpoint carries it. What files hold is
read once for each size and time of change, over all starts of a run (`hashes.json`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sectow_fast import kernels
from sectow_fast.config import Config
from sectow_fast.hashes import Hashes
from sectow_fast.learn import checksums
from sectow_fast.learn.checkpoint_folder import latest, read_state
from sectow_fast.protocols import Stage
from sectow_fast.run_folder import write_whole
from sectow_fast.types import UserError

Tie = Mapping[str, str]

KEY = "tie"  # in a checkpoint's state.json
FREE = ("reveal", "save_every", "learn.rank_timeout")  # settings that no result depends on
MODEL_FILES = (
    ".gguf",
    ".json",
    ".jinja",
    ".txt",
    ".model",
    ".py",
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
)
SHOWN = 3  # differences that a message names; the others are counted


def tie_of(config: Config, stage: Stage, *, cache: Path) -> dict[str, str]:
    """The tie of a run as it is now. UserError where a file cannot be read.

    cache: where the hashes of files are kept from one start to the next.
    """
    rows = list(stage.rows())
    models = dict(_model_files(config))
    plugins = {f"plugin {name}": Path(name) for name in config.plugins if name.endswith(".py")}
    named = models | plugins
    try:
        hashes = Hashes(_read(cache))
        found = hashes.of([*named.values(), *(path for row in rows for path in row.files)])
        write_whole(cache, json.dumps(hashes.as_dict()) + "\n")
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read or written ({error.strerror}), expected a file that"
            " this run may use"
        ) from None
    tie = {f"setting {name}": value for name, value in _settings(config).items()}
    tie["the chat template"] = _digest([stage.chat_template])
    tie |= {name: found[path][:16] for name, path in named.items()}
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(row.part, []).extend((row.words, *(found[path] for path in row.files)))
    counts = {part: sum(row.part == part for row in rows) for part in parts}
    for part, texts in parts.items():
        tie[f"the data of {part}"] = f"{counts[part]} rows, content {_digest(texts)}"
    tie |= {f"the version of {name}": version for name, version in stage.versions().items()}
    tie["the code of sectow_fast"] = _code()
    return tie


def continued(checkpoints: Path, tie: Tie, *, accept: bool) -> list[str]:
    """What differs between a run's latest checkpoint and what it would go on with now.

    One line for each difference; none where there is no checkpoint yet. accept: differences are
    wanted. UserError names them where they are not, and a checkpoint that cannot be read.
    """
    path = latest(checkpoints)
    if path is None:
        return []
    odd = checksums.changed(path)
    before = read_state(path).get(KEY)
    if not isinstance(before, dict):
        odd.append(f"{path / 'state.json'}: found nothing of what the run was made from")
        before = tie
    for name in [*tie, *(name for name in before if name not in tie)]:
        was, now = before.get(name, "nothing"), tie.get(name, "nothing")
        if was != now:
            odd.append(f"{name}: found {now}, the checkpoint is of {was}")
    if odd and not accept:
        more = f" and {len(odd) - SHOWN} more;" if len(odd) > SHOWN else ";"
        raise UserError(
            f"--resume {checkpoints.parent}: {'; '.join(odd[:SHOWN])}{more} expected all as it was,"
            " so that the run ends as it would have: put it back, or go on with the changes by"
            " --accept-changes"
        )
    return odd


def _settings(config: Config) -> dict[str, str]:
    """{dotted name: value as JSON} of every setting that a result may depend on."""
    flat: dict[str, str] = {}

    def lay(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                lay(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = json.dumps(value)

    lay("", config.model_dump(mode="json"))
    return {name: value for name, value in flat.items() if name not in FREE}


def _model_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Each file of a given model's folder that transformers may read, under a name to show."""
    for role in ("defender", "attacker"):
        folder = getattr(config.model, role)
        for path in sorted(Path(folder).iterdir()) if folder else ():
            if path.suffix in MODEL_FILES and not path.name.startswith(".") and path.is_file():
                yield f"model.{role} {path.name}", path


def _code() -> str:
    """A hash of the package's own files: its version alone does not change with every change."""
    roots = [Path(__file__).parent, *map(Path, kernels.__path__)]
    files = {path for root in roots for kind in ("*.py", "*.so") for path in root.rglob(kind)}
    return _digest(
        [one.name + hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(files)]
    )


def _digest(texts: list[str]) -> str:
    """16 hex digits that stand for the texts in their order."""
    made = hashlib.sha256()
    for text in texts:
        data = text.encode(errors="surrogatepass")
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()[:16]


def _read(cache: Path) -> object:
    """What an earlier start kept; nothing where it is not there or damaged."""
    try:
        return json.loads(cache.read_text())
    except (OSError, ValueError, RecursionError):
        return None
