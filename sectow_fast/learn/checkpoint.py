"""Atomic checkpoints: safetensors and a JSON file in a folder that appears whole or not at all.

Written and read by torch.distributed.checkpoint, each rank its own files, so a run may be resumed
on another number of ranks.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sectow_fast.hashes import Hashes
from sectow_fast.learn import checksums
from sectow_fast.learn.checkpoint_folder import (
    PART,
    WHOLE,
    clean,
    flush,
    latest_name,
    read_state,
)
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.types import UserError

FILE_BYTES = 1 << 30  # of whole tensors; a rank's share of a file is smaller
# Torch's warning that there is only one process, which is intended; it may come from any thread.
warnings.filterwarnings("ignore", message=".*assuming the intent is to (save|load).*")


class Checkpoints:
    """A run's checkpoints: each is copied at once and written in the background, one at a time.

    All ranks must make the same calls. A kill at any moment leaves either the earlier checkpoint
    or the new one.
    """

    def __init__(self, folder: Path, ranks: Ranks = ALONE) -> None:
        self.folder, self.ranks = folder, ranks
        self._finishing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None
        self._hashes = Hashes()

    def save(
        self,
        *,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        state: Mapping[str, Any],
        beside: Sequence[Path] = (),
    ) -> None:
        """Begin to write `checkpoint-N`; the earlier one goes once this one is whole.

        beside: files elsewhere that a resumed run reads; their checksums are kept with it.

        Returns once everything is copied to host memory, so that training may go on: the copy is as
        large as the share of weights and optimizer that this rank holds. Sharded tensors are
        written by the ranks that hold them. Waits for the checkpoint before; UserError if that one
        could not be written.
        """
        from torch.distributed.checkpoint import HuggingFaceStorageWriter, async_save

        self.wait()
        with self._explained():
            part = self.ranks.told(self._begin)
        flat = _untied(tensors)
        writer = HuggingFaceStorageWriter(
            str(part), fqn_to_index_mapping=_files(flat), save_distributed=True
        )
        written = async_save(
            flat,
            storage_writer=writer,
            process_group=self.ranks.aside,
            no_dist=self.ranks.world == 1,
        )
        words = json.dumps(state)
        self._writing = self._finishing.submit(self._finish, written, part, words, beside)

    def check(self) -> None:
        """UserError where the write under way has failed already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return once nothing is being written. UserError where a write has failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._explained():
                writing.result()

    def _begin(self) -> Path:
        """The folder that the next checkpoint is written to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder, keep=latest_name(self.folder))
        taken = [found for path in self.folder.iterdir() if (found := WHOLE.match(path.name))]
        number = 1 + max((int(found[1]) for found in taken), default=0)
        part = self.folder / f"{PART}{number:06d}"
        part.mkdir()
        return part

    def _finish(
        self, written: Future[object], part: Path, state: str, beside: Sequence[Path]
    ) -> None:
        """Wait for all ranks' files, then make them the latest checkpoint (on the first rank)."""
        written.result()
        if not self.ranks.first:
            return
        (part / "state.json").write_text(state)
        final = self.folder / f"checkpoint-{part.name.removeprefix(PART)}"
        checksums.write(part, beside, self._hashes, name=final.name)
        for path in part.iterdir():
            flush(path)
        flush(part)
        part.rename(final)
        pointer = self.folder / ".latest.part"
        pointer.write_text(final.name)
        flush(pointer)
        pointer.replace(self.folder / "latest")
        flush(self.folder)
        clean(self.folder, keep=final.name)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from torch.distributed.checkpoint.api import CheckpointException

        try:
            yield
        except (CheckpointException, OSError, SafetensorError) as error:
            cause: BaseException = error
            if isinstance(error, CheckpointException):
                cause, _ = next(iter(error.failures.values()))
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({cause}); the one before is"
                " whole: make room there and go on with --resume"
            ) from None


def _untied(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """By `group/name`. Tied weights share memory, which safetensors refuses, so each is copied."""
    flat: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for group, values in tensors.items():
        for name, value in values.items():
            here = (value.to_local() if hasattr(value, "to_local") else value).data_ptr()
            flat[f"{group}/{name}"] = value.detach().clone() if here in seen else value.detach()
            seen.add(here)
    return flat


def _files(flat: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Which file a tensor goes to, from 1: torch holds a second copy of the file that it writes."""
    out, number, size = {}, 1, 0
    for name, value in flat.items():
        size += value.nbytes
        if size > FILE_BYTES:
            number, size = number + 1, value.nbytes
        out[name] = number
    return out


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
    path = folder / ranks.told(lambda: latest_name(folder))
    state = read_state(path)
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
