"""Atomic checkpoints: safetensors and a JSON file in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sectow_fast.types import UserError

_PART = ".part-"


def save(
    folder: Path, *, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `folder/checkpoint-N/` and make it the latest; earlier ones go only after that.

    A kill at any moment leaves either the earlier checkpoint or this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder, keep=_latest_name(folder))
    number = max((int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*")), default=0) + 1
    part = folder / f"{_PART}{number:06d}"
    part.mkdir()
    for name, values in tensors.items():
        # Tied weights share memory, which safetensors refuses; a copy each is small and exact.
        plain = {key: value.detach().cpu().clone() for key, value in values.items()}
        save_file(plain, part / f"{name}.safetensors")
    (part / "state.json").write_text(json.dumps(state))
    for path in part.iterdir():
        _flush(path)
    _flush(part)
    final = folder / f"checkpoint-{number:06d}"
    part.rename(final)
    pointer = folder / ".latest.part"
    pointer.write_text(final.name)
    _flush(pointer)
    pointer.replace(folder / "latest")
    _flush(folder)
    _clean(folder, keep=final.name)
    return final


def load(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """(tensors by file name, state) of the latest checkpoint. UserError names a damaged file."""
    path = folder / _latest_name(folder)
    tensors = {}
    try:
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path / 'state.json'}: found no readable checkpoint ({error}), expected JSON;"
            " start the run anew with another --out"
        ) from None
    for file in sorted(path.glob("*.safetensors")):
        try:
            tensors[file.stem] = load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file}: found a damaged file ({error}), expected safetensors;"
                " start the run anew with another --out"
            ) from None
    return tensors, state


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
    out = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}/{key}"] = value
    return out


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """The inverse of `optimizer_tensors`, onto a new optimizer of the same model."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        if name not in parameters:
            raise UserError(
                f"checkpoint optimizer: found state of {name!r}, which this model has not;"
                " resume with the configuration the run began with"
            )
        optimizer.state[parameters[name]][key] = value


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
