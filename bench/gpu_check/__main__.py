"""python -m bench.gpu_check [--rehearse] [--stages names,kernels] [--again] [--out DIR]"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="make gpu-check", description="docs/GPU.md")
    made.add_argument("--rehearse", action="store_true", help="on the CPU, at toy sizes")
    made.add_argument("--stages", default="", help="names, comma between; none: all")
    made.add_argument("--again", action="store_true", help="redo stages that are finished")
    made.add_argument("--out", type=Path, help="folder of the results")
    made.add_argument("--attention", help="SGLang's attention backend; none: its own choice")
    return made


def main(arguments: Sequence[str]) -> int:
    import record

    from bench.gpu_check import machine, results

    given = parser().parse_args(arguments)
    if given.rehearse:
        card = machine.Card(name=f"rehearsal on {record.cpu_name()}")
    elif (card := machine.card()) is None:
        print(
            "make gpu-check: found no CUDA card (nvidia-smi names none), expected one; without a"
            " card, make gpu-check REHEARSE=1 runs the same stages at toy sizes",
            file=sys.stderr,
        )
        return 2
    from bench.gpu_check.stages import BY_NAME

    names = [name for name in given.stages.split(",") if name] or list(BY_NAME)
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        print(f"--stages: found {unknown[0]!r}, expected {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="sectow-gpu-check-") as name:
        # What a rehearsal measures is nothing to keep, unless a folder is named.
        default = Path(name) / "results" if given.rehearse else results.KEPT / card.folder
        folder = given.out or default
        if given.rehearse and results.is_kept(folder):
            print(
                f"--out: found {folder} in a rehearsal, expected a folder outside {results.KEPT},"
                " which holds what cards measured",
                file=sys.stderr,
            )
            return 2
        return _run(given, [BY_NAME[one] for one in names], card, folder, Path(name) / "scratch")


def _run(
    given: argparse.Namespace, stages: Sequence[Any], card: Any, folder: Path, scratch: Path
) -> int:
    from rich.console import Console

    from bench.gpu_check import results, runner, table
    from bench.gpu_check.check import Check

    for one in (folder, scratch):
        one.mkdir(parents=True, exist_ok=True)
    check = Check(
        rehearse=given.rehearse, results=folder, scratch=scratch, attention=given.attention
    )
    run = runner.Run(check=check, card=card, code=results.code_digest(), again=given.again)
    states = runner.run_all(run, stages, lambda line: print(line, flush=True))
    table.show(folder, stages, Console(width=None if sys.stdout.isatty() else 160))
    return 0 if set(states.values()) <= {results.FINISHED, "skipped"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
