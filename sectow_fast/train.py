"""`python -m sectow_fast.train`: a configuration in, a run folder out. Wiring only."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sectow_fast import ctrl_c

if __name__ == "__main__":
    ctrl_c.end_quietly("stopped; nothing was begun")

from sectow_fast.cli import help_lines, load_named_plugins
from sectow_fast.config import Config
from sectow_fast.settings import Options, config_flags, read_command
from sectow_fast.types import UserError

if TYPE_CHECKING:
    from sectow_fast.learn.ranks import Ranks

# Threads that wait for each other sleep instead of spinning: with other work on the machine a run
# was 50 times slower without this. OpenMP reads it when torch is first imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Without it cuBLAS may sum in another order from run to run; read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

USAGE = """usage: python -m sectow_fast.train [--preset NAME | --config FILE.toml] [--out DIR]
       [--dry-run] [--plain] [--seed N] [--rounds K] [--ablate NAME[,NAME]]
       [--attacker grpo|self-instruct] [--defender grpo|sft] [--reveal]
       [--plugins FILE.py[,MODULE]] [--section.field VALUE ...]
   or: python -m sectow_fast.train --resume DIR [--accept-changes] [--plain]

With no argument: the embedded sandbox, a few minutes on two CPU cores. On several GPUs or
processes: torchrun --nproc-per-node N -m sectow_fast.train ...
Settings (section.field = default):
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 2: a mistake in what was given; 130: stopped, can be resumed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if "-h" in arguments or "--help" in arguments:
            extra = extra_flags() if load_named_plugins(arguments) else {}
            print(USAGE + "\n".join(help_lines(config_flags(extra))))
            return 0
        return run(arguments)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun every rank finds the same
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was begun", file=sys.stderr)
        return 130


def run(arguments: Sequence[str]) -> int:
    """Read the configuration, then print its plan or play it."""
    options, config = read_command(arguments, extra_flags=extra_flags)
    if options.dry_run:
        from sectow_fast.plan import print_plan

        print_plan(config)
        return 0
    return play_run(config, options)


def extra_flags() -> Mapping[str, Any]:
    """{dotted name: default} of settings that a registered thing knows and `Config` does not: the
    numbers of policy losses and KL estimates from plugins."""
    from sectow_fast.kernels import loss_options

    return {
        f"{phase}.loss.{name}": default
        for phase in ("attack", "defend")
        for name, default in loss_options().items()
    }


def play_run(config: Config, options: Options) -> int:
    """Open the folder, play, report."""
    import torch

    from sectow_fast.learn.leaving import RankLeft
    from sectow_fast.learn.memory import settled
    from sectow_fast.learn.ranks import joined
    from sectow_fast.players import check_settings

    if config.threads:
        torch.set_num_threads(config.threads)
    # On a GPU some operations of transformers have no deterministic form: torch names them once.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # Before the ranks meet, since a plan makes a world of its own; the first one's is everybody's.
    planned: Config | UserError = config
    if int(os.environ.get("RANK", "0")) == 0:
        try:
            check_settings(config)
            planned = settled(config)
        except UserError as error:  # raised where all ranks are, so that they leave together
            planned = error
    # What is closed may take its time, so the other ranks are told of a failure before that.
    with contextlib.ExitStack() as at_end:
        try:
            with joined(timeout=config.learn.rank_timeout) as ranks:
                if isinstance(planned, UserError):
                    raise planned
                return _play(ranks.told(lambda: planned), config, options, ranks, at_end)
        except RankLeft as left:
            return left.code


def _play(
    config: Config, asked: Config, options: Options, ranks: Ranks, at_end: contextlib.ExitStack
) -> int:
    """asked: the configuration before the plan of its memory made the choices of `auto`."""
    from rich.console import Console

    from sectow_fast.fitting import fitted
    from sectow_fast.keeper import Interrupted, Keeper
    from sectow_fast.match import Match
    from sectow_fast.players import check
    from sectow_fast.report.console import LiveConsole
    from sectow_fast.report.html import write_report
    from sectow_fast.run_folder import RunFolder, unwritten
    from sectow_fast.stages import make_stage
    from sectow_fast.ties import continued, tie_of
    from sectow_fast.tug import play

    ctrl_c.raise_again()
    check(config, ranks)
    stage = make_stage(config, told=ranks.told)
    # Every rank must have the first one's name for a new folder, which the clock gives.
    default = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{config.preset}"
    path = Path(ranks.told(lambda: options.resume or options.out or default))
    folder = RunFolder(path)
    if ranks.first:
        folder = RunFolder.reopen(path) if options.resume else RunFolder.create(path, asked)
    ranks.barrier()
    # The first rank alone reads what the run is made from and goes on with.
    tie = ranks.told(lambda: tie_of(config, stage, cache=path / "hashes.json"))
    changes = ranks.told(lambda: continued(folder.checkpoints, tie, accept=options.accept_changes))
    console = LiveConsole(
        title=f"sectow_fast {config.preset}, seed {config.seed}",
        rounds=config.rounds,
        attacks=stage.judged.attacks,
        plain=True if options.plain else None,
        console=None if ranks.first else Console(file=open(os.devnull, "w")),  # noqa: SIM115
    )
    try:
        with console:
            accepted = (f"accepted: {change}" for change in changes)
            for note in (*stage.notes, stage.judged.words(), *accepted):
                console.note(note)
            config, players = fitted(
                config, asked, stage, folder=folder.path, ranks=ranks, say=console.note
            )
            at_end.callback(players.close)
            match = Match(config=config, stage=stage, cast=players)
            keeper = Keeper(match, players, folder=folder, console=console, tie=tie)
            with keeper.stoppable():
                play(match, keeper)
            keeper.finish()
            if ranks.first:
                report = write_report(folder.path, reveal=config.reveal)
    except (Interrupted, KeyboardInterrupt) as stop:
        if ranks.world > 1 and isinstance(stop, KeyboardInterrupt):
            raise  # this rank alone: the others are told
        if ranks.first:
            print(
                f"stopped; go on with: python -m sectow_fast.train --resume {folder.path}",
                file=sys.stderr,
            )
        return 130
    except OSError as error:
        words = unwritten(error, folder.path)
        if words is None:
            raise
        raise UserError(f"{words}, and go on by --resume {folder.path}") from None
    if ranks.first:
        print(f"done in {keeper.elapsed:.0f} s: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
