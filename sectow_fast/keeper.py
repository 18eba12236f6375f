"""Where a match is kept: checkpoints, metrics.jsonl, summary.json, pool.jsonl, and the console.

A checkpoint is taken between two steps, and holds all that the next step reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast import ties
from sectow_fast.data.asked import NAME as TRAINED_ON
from sectow_fast.data.asked import TrainedOn
from sectow_fast.data.suites.wording import Wording
from sectow_fast.game.schedule import teaches_refusals
from sectow_fast.learn import checkpoint
from sectow_fast.learn.checkpoint import Checkpoints
from sectow_fast.learn.checkpoint_folder import reading
from sectow_fast.learn.optim import moments_of
from sectow_fast.learn.phase import NonFiniteRun
from sectow_fast.match import Match
from sectow_fast.players import MOMENTS, Players
from sectow_fast.records import PhaseRecord, StepRecord, attack_as_dict, event_row
from sectow_fast.report.console import LiveConsole
from sectow_fast.report.metrics import MetricsLog
from sectow_fast.rounds import RoundRecord, RunSummary
from sectow_fast.run_folder import RunFolder, kept_at, write_whole
from sectow_fast.types import Event

PLAYERS = ("defender", "attacker")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after the checkpoint was written."""


class Keeper:
    """Writes down what happens in `match`; only the first rank writes files.

    tie: what its checkpoints are tied to (ties.py).
    """

    def __init__(
        self,
        match: Match,
        players: Players,
        *,
        folder: RunFolder,
        console: LiveConsole,
        tie: Mapping[str, str],
    ) -> None:
        self.match, self.players, self.ranks = match, players, players.ranks
        self.folder, self.console, self.tie = folder, console, tie
        self.log = MetricsLog(folder.path / "metrics.jsonl") if self.ranks.first else None
        self._before = 0.0  # seconds that earlier processes of this run took
        self._began = time.perf_counter()
        self._asked_to_stop = False
        given = match.config.model.defender
        self._taught_before = TrainedOn.read(Path(given)) if given else None
        self._checkpoints = Checkpoints(folder.checkpoints, self.ranks)
        if self.ranks.told((folder.checkpoints / "latest").exists):
            self._resume()
        elif self.log:
            self.log.truncate(0)  # killed before its first checkpoint: the run begins anew

    # ---- what tug.py tells

    def phase(self, round: int, name: str, steps: int) -> None:
        """A phase begins."""
        self.console.phase(round, name, steps)

    @contextlib.contextmanager
    def timed(self, round: int, name: str) -> Iterator[dict[str, float]]:
        """A phase without steps, from its beginning to its end; it fills in its measures."""
        self.phase(round, name, 1)
        began, measures = time.perf_counter(), dict[str, float]()
        yield measures
        seconds = time.perf_counter() - began
        record = PhaseRecord(round=round, phase=name, seconds=seconds, measures=measures)
        self._write(record.as_row())

    def on_step(self, record: StepRecord, events: Sequence[Event]) -> None:
        """Log and show a step; save where due; stop here where Ctrl-C was pressed.

        UserError where a checkpoint could not be written in the background.
        """
        match = self.match
        self._checkpoints.check()
        record = dataclasses.replace(record, engine=self.players.engines.counts)
        self._write(record.as_row())
        self.console.step(record)
        for event in events:
            self.on_event(event)
        match.step = record.step + 1
        match.skipped = int(record.measures["skipped_in_row"])
        if self._stopping():
            self.save()
            self._checkpoints.wait()
            raise Interrupted
        if match.step % match.config.save_every == 0 and match.step < record.steps:
            self.save()

    def on_event(self, event: Event) -> None:
        """Log and show what happened; the round's record has it too."""
        self.match.events.append(event)
        self._write(event_row(event))
        self.console.event(event)

    def write_pool(self) -> None:
        if self.ranks.first:
            lines = [json.dumps(attack_as_dict(attack)) + "\n" for attack in self.match.pool]
            write_whole(self.folder.path / "pool.jsonl", "".join(lines))

    def round_done(self, record: RoundRecord) -> None:
        self.match.end_round(record)
        if record.round == 0 and teaches_refusals(self.match.config) and self.ranks.first:
            self._write_trained_on(self.folder.path / "coldstart" / "defender")
        self.console.round_done(record)
        self.write_summary()

    def next_phase(self) -> None:
        self.match.next_phase()
        self.players.end_training()
        self.save()
        if self._stopping():
            self._checkpoints.wait()
            raise Interrupted

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

    # ---- checkpoints

    @property
    def elapsed(self) -> float:
        """Seconds of this run so far, those before a resume included."""
        return self._before + time.perf_counter() - self._began

    def save(self) -> None:
        """Begin an atomic checkpoint of everything the next step reads."""
        match = self.match
        tensors = {name: dict(self._player(name).model.state_dict()) for name in PLAYERS}
        training = self.players.training
        if training is not None:
            tensors["optimizer"] = moments_of(training.optimizer, training.model)
        tensors |= {MOMENTS + name: kept for name, kept in self.players.moments.items()}
        if match.role is not None and match.role.last_good is not None:
            tensors["last_good"] = match.role.last_good
        if match.cold_attacker:
            tensors["cold_attacker"] = match.cold_attacker
        state = match.state() | {
            "elapsed": self.elapsed,
            "metrics_bytes": self.log.bytes if self.log else 0,
            ties.KEY: dict(self.tie),
        }
        # Once a round is over, what it kept is read again and never written again.
        kept = [self.folder.path / kept_at(record.round) for record in match.rounds]
        beside = [path for place in kept for path in sorted(place.glob("*/*"))]
        self._checkpoints.save(tensors=tensors, state=state, beside=beside)

    def _resume(self) -> None:
        saved = checkpoint.load(self.folder.checkpoints, ranks=self.ranks)
        for name in PLAYERS:
            player = self._player(name)
            saved.fill(name, player.model.state_dict())
            player.engine.sync(player.model)
        with reading(saved.path):
            self.match.restore(saved.state)
            self._before = float(saved.state["elapsed"])
            metrics_bytes = int(saved.state["metrics_bytes"])
        cast = self.match.cast
        if "last_good" in saved.names:
            whose = cast.attacker if self.match.phase == "attack" else cast.defender
            self.match.last_good = whose.weights()
            saved.fill("last_good", self.match.last_good)
        if "cold_attacker" in saved.names:
            self.match.cold_attacker = cast.attacker.weights()
            saved.fill("cold_attacker", self.match.cold_attacker)
        self.players.resume_training(saved)
        if self.log:
            self.log.truncate(metrics_bytes)
        if self.match.pool:
            self.write_pool()
        for record in self.match.rounds:
            self.console.round_done(record)

    def _player(self, name: str) -> Any:
        cast = self.match.cast
        return cast.defender if name == "defender" else cast.attacker

    # ---- what is left at the end

    def write_summary(self) -> None:
        """`summary.json` so far. Of two same runs only `wall_seconds` differs."""
        config = self.match.config
        if not self.ranks.first:
            return
        summary = RunSummary(
            preset=config.preset,
            seed=config.seed,
            versions=self.match.stage.versions() | self.players.engines.versions,
            device=self.players.device_name,
            wall_seconds=round(self.elapsed, 1),
            ablate=config.ablate,
            attacker=config.attacker,
            defender=config.defender,
            judged=self.match.stage.judged,
            rounds=self.match.rounds,
            league=self.match.league,
        )
        self.folder.write_json("summary.json", summary.as_dict())

    def finish(self) -> None:
        """Both players, loadable by transformers' Auto classes."""
        self._checkpoints.wait()
        for name in PLAYERS:
            self.players.keep(self._player(name), self.folder.path / name)
        if not self.ranks.first:
            return
        self._write_trained_on(self.folder.path / "defender")
        if not (self.folder.path / "pool.jsonl").exists():
            self.write_pool()
        self.write_summary()
        self.log.close()

    def _write_trained_on(self, folder: Path) -> None:
        """What a defender was trained on, beside its weights: an evaluation compares with it."""
        config, world = self.match.config, self.match.stage.world
        wording = Wording.load(Path(config.data.wording) if config.data.wording else None)
        cases = [*world.train_cases("unsafe"), *world.train_cases("harmless")]
        found = TrainedOn.of(cases, wording).after(self._taught_before)
        write_whole(folder / TRAINED_ON, found.text())

    # ---- stopping

    def _write(self, row: dict[str, Any]) -> None:
        if self.log:
            self.log.append(row)

    def _stopping(self) -> bool:
        """Whether any rank was asked to: all stop after the same step, or the rest would wait."""
        return bool(self.ranks.largest(float(self._asked_to_stop)))

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Ctrl-C ends the run after the current step; a second one at once (nothing is lost)."""

        def ask(signum: int, frame: Any) -> None:
            if self._asked_to_stop:
                raise KeyboardInterrupt
            self._asked_to_stop = True
            self.console.note("stopping after this step")

        before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
