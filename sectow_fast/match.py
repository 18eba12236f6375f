"""What changes while a run is played: the two models, pool, cursor; and how it is saved and shown.

`tug.py` says what happens; this file keeps it safe. A checkpoint is taken between two steps, and
holds all that the next step reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from sectow_fast.config import Config
from sectow_fast.game.player import Player
from sectow_fast.game.pool import attack_as_dict, attack_from_dict, write_pool
from sectow_fast.learn import checkpoint
from sectow_fast.learn.optim import make_optimizer
from sectow_fast.learn.phase import NonFiniteRun
from sectow_fast.learn.ranks import ALONE, Ranks
from sectow_fast.players import Players
from sectow_fast.report.console import LiveConsole
from sectow_fast.report.metrics import MetricsLog
from sectow_fast.run_folder import RunFolder
from sectow_fast.types import Attack, Event


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after the checkpoint was written."""


class Match:
    """One run in progress. `stage` is a data package's stage: world, codec, lessons, models."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        stage: Any,
        console: LiveConsole,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.folder, self.console, self.ranks = config, folder, console, ranks
        self.world, self.codec, self.lessons = stage.world, stage.codec, stage.lessons
        self.measures: Mapping[str, str] = stage.measures
        self._stage = stage
        self.log = MetricsLog(folder.path / "metrics.jsonl") if ranks.first else None
        self._players = Players(config, stage, folder=folder.path, ranks=ranks)
        self.engines = self._players.engines
        self.defender = self._players.trained("defender", stage.defender())
        self.attacker = self._players.trained("attacker", stage.attacker())
        self._round_zero: Player | None = None
        self.pool: list[Attack] = []
        self.rounds: list[dict[str, Any]] = []
        self.pending: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.cursor = self.step = self.skipped = 0
        self.role: Any = None
        self.role_state: dict[str, Any] | None = None
        self.last_good: dict[str, torch.Tensor] | None = None
        self._saved: checkpoint.Saved | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimized: Any = None
        self._where: tuple[int, str, int] = (0, "", 0)
        self._before = 0.0
        self._began = time.perf_counter()
        self._interrupted = False
        if (folder.checkpoints / "latest").exists():
            self._resume()
        elif self.log:
            self.log.truncate(0)  # killed before its first checkpoint: the run begins anew

    # ---- models

    def fork_attacker(self) -> None:
        """The attacker becomes the defender's twin: two copies of one model."""
        self.attacker.model.load_state_dict(self.defender.model.state_dict())
        self.attacker.engine.sync(self.attacker.model)

    def save_round_zero(self) -> None:
        """The cold-started players: what an ablation starts from, and the yardstick of attacks."""
        for name, player in (("defender", self.defender), ("attacker", self.attacker)):
            self._players.keep(player, self.folder.path / "coldstart" / name)
        self.ranks.barrier()

    @property
    def round_zero(self) -> Player:
        """The defender after cold start, frozen."""
        if self._round_zero is None:
            folder = self.folder.path / "coldstart" / "defender"
            self._round_zero = self._players.frozen("round-0", folder)
        return self._round_zero

    def reference(self, role: str) -> Any:
        """The cold-start policy of a role, for the KL term."""
        return self._players.reference(self.folder.path / "coldstart" / role)

    def safe_lesson(self) -> Any:
        """The SFT baseline's lesson: kept attacks and existing unsafe data refused."""
        return self._stage.safe_lesson(self.pool)

    def optimizer(
        self, player: Player, lr: float, *, betas: tuple[float, float], decay: float
    ) -> torch.optim.Optimizer:
        """A phase's optimizer: new, or as the checkpoint had it."""
        optimizer = make_optimizer(player.model, lr, betas=betas, weight_decay=decay)
        if self._saved:
            self._saved.fill_optimizer(optimizer, player.model)
        self._saved = None
        self._optimizer, self._optimized = optimizer, player.model
        return optimizer

    # ---- steps and phases

    @contextlib.contextmanager
    def phase(self, round: int, name: str, steps: int) -> Iterator[None]:
        self._where = (round, name, steps)
        self.console.phase(round, name, steps)
        self._phase_began = time.perf_counter()
        yield

    def on_step(self, step: int, row: dict[str, Any], events: Sequence[Event]) -> None:
        """Log and show a step; save where due; stop here where Ctrl-C was pressed."""
        round, name, steps = self._where
        full = {"round": round, "phase": name, "step": step, "steps": steps} | row
        if self.engines.counts:
            full["engine"] = self.engines.counts
        self._write(full)
        self.console.step(full)
        for event in events:
            self.event(event)
        self.step = step + 1
        self.skipped = int(row.get("skipped_in_row", 0))
        if self._asked_to_stop():
            self.save()
            raise Interrupted
        if self.step % self.config.save_every == 0 and self.step < steps:
            self.save()

    def event(self, event: Event) -> None:
        row = {
            "kind": event.kind,
            "message": event.message,
            "round": event.round,
            "phase": event.phase,
            "step": event.step,
            "values": dict(event.values),
        }
        self.events.append(row)
        self._write({"event": row})
        self.console.event(event)

    def log_row(self, row: dict[str, Any]) -> None:
        round, name, _ = self._where
        seconds = {name: time.perf_counter() - self._phase_began}
        self._write({"round": round, "phase": name, "seconds": seconds} | row)

    def _write(self, row: dict[str, Any]) -> None:
        if self.log:
            self.log.append(row)

    def write_pool(self) -> None:
        if self.ranks.first:
            write_pool(self.folder.path / "pool.jsonl", self.pool)

    def _asked_to_stop(self) -> bool:
        """Whether any rank was: all stop after the same step, or the others would wait for ever."""
        return bool(self.ranks.largest(float(self._interrupted)))

    def next_phase(self) -> None:
        self.cursor, self.step, self.skipped = self.cursor + 1, 0, 0
        self._optimizer = self._optimized = self.role = self.role_state = self.last_good = None
        self.save()
        if self._asked_to_stop():
            raise Interrupted

    def round_done(self, row: dict[str, Any]) -> None:
        row["events"] = self.events
        self.events, self.pending = [], {}
        self.rounds.append(row)
        self.log_row({})
        self.console.round_done(row)
        self.write_summary()

    # ---- saving

    @contextlib.contextmanager
    def saving_the_failed_batch(self) -> Iterator[None]:
        """Where three updates in a row were not finite, keep the batch for a look."""
        try:
            yield
        except NonFiniteRun as error:
            groups = [dataclasses.asdict(group) for group in error.groups]
            if self.ranks.first:
                self.folder.write_json("failed-batch.json", groups)
            raise

    @property
    def elapsed(self) -> float:
        return self._before + time.perf_counter() - self._began

    def save(self) -> None:
        """An atomic checkpoint of everything the next step reads."""
        tensors = {
            "defender": dict(self.defender.model.state_dict()),
            "attacker": dict(self.attacker.model.state_dict()),
        }
        if self._optimizer is not None:
            tensors["optimizer"] = checkpoint.optimizer_tensors(self._optimizer, self._optimized)
        if self.role is not None and getattr(self.role, "last_good", None):
            tensors["last_good"] = self.role.last_good
        checkpoint.save(
            self.folder.checkpoints,
            tensors=tensors,
            state={
                "cursor": self.cursor,
                "step": self.step,
                "skipped": self.skipped,
                "elapsed": self.elapsed,
                "metrics_bytes": self.log.bytes if self.log else 0,
                "role": self.role.state() if self.role is not None else None,
                "pool": [attack_as_dict(attack) for attack in self.pool],
                "rounds": self.rounds,
                "pending": self.pending,
                "events": self.events,
            },
            ranks=self.ranks,
        )

    def _resume(self) -> None:
        self._saved = saved = checkpoint.load(self.folder.checkpoints, ranks=self.ranks)
        state = saved.state
        for name, player in (("defender", self.defender), ("attacker", self.attacker)):
            saved.fill(name, player.model.state_dict())
            player.engine.sync(player.model)
        if "last_good" in saved.names:
            here = self.defender.model.state_dict()
            self.last_good = {name: torch.zeros_like(value) for name, value in here.items()}
            saved.fill("last_good", self.last_good)
        self.cursor, self.step = state["cursor"], state["step"]
        self.skipped, self._before = state["skipped"], state["elapsed"]
        self.role_state = state["role"]
        self.pool = [attack_from_dict(row) for row in state["pool"]]
        self.rounds, self.pending, self.events = state["rounds"], state["pending"], state["events"]
        if self.log:
            self.log.truncate(state["metrics_bytes"])
        if self.pool:
            self.write_pool()
        for row in self.rounds:
            self.console.round_done(row)

    def write_summary(self) -> None:
        """`summary.json` so far. Of two same runs only `wall_seconds` differs."""
        config = self.config
        if not self.ranks.first:
            return
        self.folder.write_json(
            "summary.json",
            {
                "schema": 1,
                "preset": config.preset,
                "seed": config.seed,
                "versions": self._stage.versions() | self.engines.versions,
                "device": self._players.device_name,
                "wall_seconds": round(self.elapsed, 1),
                "ablate": list(config.ablate),
                "attacker": config.attacker,
                "defender": config.defender,
                "rounds": self.rounds,
            },
        )

    def finish(self) -> None:
        """Both players, loadable by transformers' Auto classes."""
        for name, player in (("defender", self.defender), ("attacker", self.attacker)):
            self._players.keep(player, self.folder.path / name)
        if not self.ranks.first:
            return
        if not (self.folder.path / "pool.jsonl").exists():
            self.write_pool()
        self.write_summary()
        self.log.close()

    def close(self) -> None:
        """End the engines; their processes outlive nothing of ours."""
        self.engines.close()

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Ctrl-C ends the run after the current step; a second one at once (nothing is lost)."""

        def ask(signum: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            self.console.note("stopping after this step")

        before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
