"""Atomic checkpoints: safetensors and a JSON file in a folder that appears whole or not at all.

Written and read by torch.distributed.checkpoint, one file per rank, so a run may be resumed on
another number of ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.types import UserError

_PART = ".part-"


def save(
    folder: Path,
    *,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    ranks: Ranks = ALONE,
) -> Path:
    """Write `folder/checkpoint-N/` and make it the latest; earlier ones go only after that.

    Sharded tensors are written by the ranks that hold them, so all ranks must call this. A kill at
    any moment leaves either the earlier checkpoint or this one.
    """
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder, keep=_latest_name(folder))
    ranks.barrier()
    number = max((int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*")), default=0) + 1
    part = folder / f"{_PART}{number:06d}"
    final = folder / f"checkpoint-{number:06d}"
    if ranks.first:
        part.mkdir()
    ranks.barrier()
    _write(part, tensors, ranks)
    if ranks.first:
        (part / "state.json").write_text(json.dumps(state))
        for path in part.iterdir():
            _flush(path)
        _flush(part)
        part.rename(final)
        pointer = folder / ".latest.part"
        pointer.write_text(final.name)
        _flush(pointer)
        pointer.replace(folder / "latest")
        _flush(folder)
        _clean(folder, keep=final.name)
    ranks.barrier()
    return final


def _write(part: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], ranks: Ranks) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter
    from torch.distributed.checkpoint import save as write

    flat: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for group, values in tensors.items():
        for name, value in values.items():
            here = (value.to_local() if hasattr(value, "to_local") else value).data_ptr()
            # Tied weights share memory, which safetensors refuses, so each is copied.
            flat[f"{group}/{name}"] = value.detach().clone() if here in seen else value.detach()
            seen.add(here)
    with _quiet():
        write(
            flat,
            storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True),
            no_dist=ranks.world == 1,
        )


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The latest checkpoint: its state, and the names of its tensors by group."""

    path: Path
    state: dict[str, Any]
    names: Mapping[str, frozenset[str]]
    ranks: Ranks = ALONE

    def fill(self, group: str, into: Mapping[str, torch.Tensor]) -> None:
        """Read a group's tensors into `into`. Each rank reads its share, however many ranks wrote.

        UserError where the two do not hold the same names or shapes.
        """
        found = self.names.get(group, frozenset())
        odd = sorted(found.symmetric_difference(into))
        if odd:
            where = "the checkpoint" if odd[0] in found else "this model"
            raise UserError(
                f"{self.path}: found {odd[0]!r} of {group} only in {where}, expected the same"
                " tensors in both; resume with the configuration the run began with"
            )
        from torch.distributed.checkpoint import HuggingFaceStorageReader
        from torch.distributed.checkpoint import load as read
        from torch.distributed.checkpoint.api import CheckpointException

        flat = {f"{group}/{name}": value.detach() for name, value in into.items()}
        try:
            with _quiet():
                reader = HuggingFaceStorageReader(str(self.path))
                read(flat, storage_reader=reader, no_dist=self.ranks.world == 1)
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            raise UserError(
                f"{self.path}: found tensors of {group} that do not fit this model"
                f" ({cause}); resume with the configuration the run began with"
            ) from None

    def fill_optimizer(self, optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
        """AdamW's state as `optimizer_tensors` gave it, onto a new optimizer of the same model."""
        parameters = dict(model.named_parameters())
        into: dict[str, torch.Tensor] = {}
        for path in self.names.get("optimizer", ()):
            name, key = path.rsplit("/", 1)
            if name not in parameters:
                raise UserError(
                    f"checkpoint optimizer: found state of {name!r}, which this model has not;"
                    " resume with the configuration the run began with"
                )
            parameter = parameters[name]
            value = (
                torch.zeros((), device=parameter.device)
                if key == "step"
                else torch.zeros_like(parameter)
            )
            into[path] = optimizer.state[parameter][key] = value.detach()
        if into:
            self.fill("optimizer", into)


def load(folder: Path, *, ranks: Ranks = ALONE) -> Saved:
    """The latest checkpoint. UserError names a damaged file."""
    path = folder / _latest_name(folder)
    try:
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path / 'state.json'}: found no readable checkpoint ({error}), expected JSON;"
            " start the run anew with another --out"
        ) from None
    names: dict[str, set[str]] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a mapping
                    group, _, name = key.partition("/")
                    names.setdefault(group, set()).add(name)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file}: found a damaged file ({error}), expected safetensors;"
                " start the run anew with another --out"
            ) from None
    return Saved(
        path=path,
        state=state,
        names={group: frozenset(found) for group, found in names.items()},
        ranks=ranks,
    )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
    out = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}/{key}"] = value
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning of torch that there is only one process, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to (save|load).*")
        yield


def _latest_name(folder: Path) -> str:
    pointer = folder / "latest"
    return pointer.read_text().strip() if pointer.exists() else ""


def _clean(folder: Path, *, keep: str) -> None:
    for path in folder.iterdir():
        if path.name != keep and (
            path.name.startswith(_PART) or path.name.startswith("checkpoint-")
        ):
            shutil.rmtree(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
