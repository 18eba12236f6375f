"""`python -m sectow_fast.train`: a configuration in, a run folder out. Wiring only."""

from __future__ import annotations

import difflib
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sectow_fast.config import Config
from sectow_fast.types import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# Threads that wait for each other sleep instead of spinning: with other work on the machine a run
# was 50 times slower without this. OpenMP reads it when torch is first imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Without it cuBLAS may sum in another order from run to run; read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

USAGE = """usage: python -m sectow_fast.train [--preset NAME | --config FILE.toml] [--out DIR]
       [--resume DIR] [--dry-run] [--plain] [--seed N] [--rounds K] [--ablate NAME[,NAME]]
       [--attacker grpo|self-instruct] [--defender grpo|sft] [--reveal true]
       [--section.field VALUE ...]

With no argument: the embedded sandbox, a few minutes on two CPU cores. On several GPUs or
processes: torchrun --nproc-per-node N -m sectow_fast.train ...
Settings (section.field = default):
"""
PRESETS = Path(__file__).parent / "presets"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 2: a mistake in what was given; 130: stopped, can be resumed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if "-h" in arguments or "--help" in arguments:
            print(USAGE + "\n".join(f"  --{name} = {value}" for name, value in settings()))
            return 0
        return run(arguments)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun every rank finds the same
            print(f"error: {error}", file=sys.stderr)
        return 2


def run(arguments: list[str]) -> int:
    options, rest = split_options(arguments)
    resume = options.get("resume")
    if resume:
        if rest or "preset" in options or "config" in options or "out" in options:
            raise UserError(
                f"--resume {resume}: found other settings beside it ({' '.join(rest) or 'preset'}),"
                " expected none: a run goes on with the configuration it began with;"
                " start a new run by --out to change settings"
            )
        config = load_config(Path(resume) / "config.toml" if _has_config(resume) else None, [])
    else:
        config = load_config(config_file(options), rest)
    if "dry-run" in options:
        from sectow_fast.plan import print_plan

        print_plan(config)
        return 0
    return play_run(config, options)


def play_run(config: Config, options: dict[str, str]) -> int:
    """Open the folder, play, report."""
    import torch

    from sectow_fast.learn.ranks import joined

    if config.threads:
        torch.set_num_threads(config.threads)
    # On a GPU some operations of transformers have no deterministic form: torch names them once.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    with joined() as ranks:
        return _play(config, options, ranks)


def _play(config: Config, options: dict[str, str], ranks: Any) -> int:
    from rich.console import Console

    from sectow_fast.keeper import Interrupted, Keeper
    from sectow_fast.match import Match
    from sectow_fast.players import Players, check
    from sectow_fast.report.console import LiveConsole
    from sectow_fast.report.html import write_report
    from sectow_fast.run_folder import RunFolder
    from sectow_fast.stages import make_stage
    from sectow_fast.tug import play

    check(config, ranks)
    stage = make_stage(config)
    # Every rank must have the first one's name for a new folder, which the clock gives.
    default = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{config.preset}"
    path = Path(ranks.gathered(options.get("resume") or options.get("out", default))[0])
    folder = RunFolder(path)
    if ranks.first:
        resumed = "resume" in options
        folder = RunFolder.reopen(path) if resumed else RunFolder.create(path, config)
    ranks.barrier()
    console = LiveConsole(
        title=f"sectow_fast {config.preset}, seed {config.seed}",
        rounds=config.rounds,
        plain=True if "plain" in options else None,
        console=None if ranks.first else Console(file=open(os.devnull, "w")),  # noqa: SIM115
    )
    players = None
    try:
        with console:
            for note in stage.notes:
                console.note(note)
            players = Players(config, stage, folder=folder.path, ranks=ranks)
            match = Match(config=config, stage=stage, cast=players)
            keeper = Keeper(match, players, folder=folder, console=console)
            with keeper.stoppable():
                play(match, keeper)
            keeper.finish()
            if ranks.first:
                report = write_report(folder.path, reveal=config.reveal)
    except (Interrupted, KeyboardInterrupt):
        if ranks.first:
            print(
                f"stopped; go on with: python -m sectow_fast.train --resume {folder.path}",
                file=sys.stderr,
            )
        return 130
    finally:
        if players is not None:
            players.close()
    if ranks.first:
        print(f"done in {keeper.elapsed:.0f} s: {report}")
    return 0


def settings(model: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, Any]]:
    """Every flag with its default, dotted."""
    from pydantic import BaseModel

    rows: list[tuple[str, Any]] = []
    for name, field in model.model_fields.items():
        default = field.default
        if isinstance(default, BaseModel):
            rows += settings(type(default), f"{prefix}{name}.")
        else:
            rows.append((prefix + name, default))
    return rows


def split_options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """(options of the command itself, settings left for the configuration)."""
    options: dict[str, str] = {}
    rest: list[str] = []
    known = {"preset", "config", "out", "resume"} | {"dry-run", "plain"}
    i = 0
    while i < len(arguments):
        name, eq, value = arguments[i].removeprefix("--").partition("=")
        if not arguments[i].startswith("--"):
            raise UserError(
                f"{arguments[i]!r}: found a bare word, expected --name VALUE; see --help"
            )
        if name in ("dry-run", "plain"):
            options[name] = "true"
            i += 1
            continue
        if name not in known and name not in dict(settings()):
            raise UserError(unknown_key(f"--{name}", [*known, *dict(settings())], dash="--"))
        if not eq:
            if i + 1 >= len(arguments) or arguments[i + 1].startswith("--"):
                raise UserError(f"--{name}: found no value, expected one; see --help")
            value = arguments[i + 1]
            i += 1
        if name in known:
            options[name] = value
        else:
            rest += [f"--{name}", value]
        i += 1
    return options, rest


def unknown_key(name: str, known: Sequence[str], dash: str = "") -> str:
    """One line that names the nearest known key."""
    near = difflib.get_close_matches(name.removeprefix("--"), known, n=1, cutoff=0.4)
    hint = f"did you mean {dash}{near[0]}?" if near else "see --help for every setting"
    return f"{name}: found an unknown setting, expected a known one; {hint}"


def _has_config(folder: str) -> bool:
    if not (Path(folder) / "config.toml").is_file():
        raise UserError(
            f"--resume {folder}: found no config.toml, expected the folder of a run;"
            " give the folder that --out named"
        )
    return True


def config_file(options: dict[str, str]) -> Path | None:
    """The TOML file that was asked for."""
    if "config" in options:
        path = Path(options["config"])
        if not path.is_file():
            raise UserError(f"--config {path}: found no such file, expected a TOML file")
        return path
    if "preset" in options:
        path = PRESETS / f"{options['preset']}.toml"
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
            raise UserError(
                f"--preset {options['preset']}: found no such preset, expected one of: {names}"
            )
        return path
    return PRESETS / "sandbox.toml"


def load_config(path: Path | None, flags: list[str]) -> Config:
    """File, then flags over it. UserError names file, field, what was found and the nearest key."""
    from pydantic import ValidationError
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: found no valid TOML ({error}); mend that line") from None

    class Flags(BaseSettings, Config):
        model_config = SettingsConfigDict(extra="forbid", frozen=True)

    if flags:
        source: Any = CliSettingsSource(Flags, cli_parse_args=flags, cli_exit_on_error=False)
        values = merged(values, source())
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(first_problem(error, path)) from None


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    out = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(out.get(name), dict):
            out[name] = merged(out[name], value)
        else:
            out[name] = value
    return out


def first_problem(error: ValidationError, path: Path | None) -> str:
    """The first validation error as one line."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    where = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        return where + unknown_key(name, list(dict(settings())))
    found = repr(first["input"])[:80]
    return f"{where}{name or 'settings'}: found {found}, {first['msg'].lower()}"


if __name__ == "__main__":
    sys.exit(main())
