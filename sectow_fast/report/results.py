"""`docs/RESULTS.md` from run folders: every variant over its seeds, with intervals.

`--run` first plays what is missing: the default run of each seed, then every ablation and baseline
from that seed's own cold start.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sectow_fast.report.rundata import attackers, figstep, read_summary
from sectow_fast.rounds import MEASURES, RunSummary
from sectow_fast.types import UserError

VARIANTS: dict[str, tuple[str, list[str]]] = {
    "default": ("SecTOW (default)", []),
    "no-iteration": ("ablation: no iteration (existing data only)", ["--ablate", "no-iteration"]),
    "no-defender-monitor": ("ablation: no defender monitor", ["--ablate", "no-defender-monitor"]),
    "no-harmless": ("ablation: no harmless data", ["--ablate", "no-harmless"]),
    "no-attacker-monitor": ("ablation: no attacker monitor", ["--ablate", "no-attacker-monitor"]),
    "no-attacker-gates": (
        "ablation: no gates in the attacker's reward",
        ["--ablate", "no-attacker-gates"],
    ),
    "no-attacker-filter": ("ablation: no filter of attacks", ["--ablate", "no-attacker-filter"]),
    "no-attacker-controller": (
        "ablation: no controller of the attacker",
        ["--ablate", "no-attacker-controller"],
    ),
    "no-cold-start": ("ablation: no cold start of the attacker", ["--ablate", "no-cold-start"]),
    "self-instruct": ("baseline: self-instruct attacker", ["--attacker", "self-instruct"]),
    "sft": ("baseline: SFT defender", ["--defender", "sft"]),
}
# What `figures` has, in the order of the first table.
COLUMNS = ("before", "asr", "asr_t1", "leak", "worst", "figstep", "orr", "accuracy")
COLUMNS += ("trained", "self")
# Student's t, 97.5 %, by degrees of freedom; over seeds there are few.
T_VALUE = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def commands(runs: Path, seeds: Sequence[int]) -> Iterator[tuple[Path, list[str]]]:
    """(folder, arguments) of every run, in an order that has cold starts first."""
    for name, (_, flags) in VARIANTS.items():
        for seed in seeds:
            folder = runs / f"{name}-seed{seed}"
            # One thread, so that the figures do not depend on how many cores there are.
            arguments = ["--seed", str(seed), "--threads", "1", "--out", str(folder), *flags]
            if name != "default":
                start = runs / f"default-seed{seed}" / "coldstart"
                arguments += ["--model.defender", str(start / "defender")]
                if name != "no-cold-start":
                    arguments += ["--model.attacker", str(start / "attacker")]
            yield folder, arguments


def play_missing(runs: Path, seeds: Sequence[int], jobs: int = 1) -> None:
    """Run what has no finished run yet, `jobs` at a time; UserError where one fails."""
    planned = list(commands(runs, seeds))
    # The others start from the default runs' cold starts, so those must have ended.
    for stage in (planned[: len(seeds)], planned[len(seeds) :]):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(play, stage))


def play(run: tuple[Path, list[str]]) -> None:
    """One run, from where it stands; nothing where it has ended."""
    folder, arguments = run
    if (folder / "report.html").exists():
        return
    if (folder / "config.toml").exists():
        arguments = ["--resume", str(folder)]
    print(f"{folder.name} ...", flush=True)
    code = subprocess.run(
        [sys.executable, "-m", "sectow_fast.train", "--plain", *arguments],
        stdout=subprocess.DEVNULL,
        # One core per run: threads of two runs that share cores wait for each other at barriers.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).returncode
    if code:
        raise UserError(f"{folder}: the run ended with code {code}; run it by hand to see why")


def over_seeds(values: Sequence[float]) -> str:
    """Mean and t-interval over seeds, in percent."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = T_VALUE.get(len(values) - 1, 1.96) * spread / math.sqrt(len(values))
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def figures(summary: RunSummary) -> dict[str, float]:
    """What a row is made of, from the first and the last round."""
    first, last = summary.rounds[0], summary.rounds[-1]
    out = {
        "before": first.mean("asr").value,
        "asr": last.mean("asr").value,
        "asr_t1": last.mean("asr", t1=True).value,
        "figstep": figstep(last).value,
        "orr": last.mean("orr").value,
        "accuracy": last.mean("accuracy").value - first.mean("accuracy").value,
    }
    if last.leak is not None:
        out |= {"leak": last.leak.mean.value, "worst": last.leak.worst_median.value}
    pair = attackers(summary.rounds)
    if pair:
        out |= {"trained": pair.trained.value, "self": pair.self_instruct.value}
    return out


def results_page(runs: Path) -> str:
    """The whole page. UserError where there is no default run."""
    found: dict[str, list[RunSummary]] = {name: [] for name in VARIANTS}
    for path in sorted(runs.glob("*/summary.json")):
        name = path.parent.name.rsplit("-seed", 1)[0]
        # The report is the last thing a run writes: without it the summary is of a part.
        if name in found and (path.parent / "report.html").exists():
            found[name].append(read_summary(path))
    if not found["default"]:
        raise UserError(f"--runs {runs}: found no default-seed*/summary.json; give --run first")
    first = found["default"][0]
    versions = ", ".join(f"{name} {value}" for name, value in first.versions.items())
    lines = [
        "# Results",
        "",
        "Made by `make results`; do not edit. Sandbox suites of "
        f"{figstep(first.rounds[0]).n} held-out cases each, greedy decoding unless"
        " said; mean over seeds with a 95 % t-interval, in percent.",
        "",
        "The defaults were chosen on seeds 0 to 12; other seeds' worlds had no part in it.",
        "",
        f"Machine: {cpu()}, {os.cpu_count()} cores; {versions}.",
        "",
        "| variant | seeds | ASR before | ASR after | ASR after, T=1 | chance of harm"
        " | worst attack, median over objects | FigStep-like | over-refusal"
        " | accuracy, change in points | attacker success, trained | self-instruct |",
        "|---" * 12 + "|",
    ]
    for name, (title, _) in VARIANTS.items():
        rows = [figures(summary) for summary in found[name]]
        if not rows:
            continue
        cells = [title, str(len(rows))]
        for key in COLUMNS:
            values = [row[key] for row in rows if key in row]
            cells.append(over_seeds(values) if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    lines += differences(found)
    lines += ["", "## The default run, seed by seed (95 % intervals over objects)", ""]
    for summary in found["default"]:
        lines += seed_table(summary)
    return "\n".join(lines) + "\n"


def differences(found: Mapping[str, Sequence[RunSummary]]) -> list[str]:
    """Each variant less the default of the same seed, in points; bold where 0 is outside."""
    default = {summary.seed: figures(summary) for summary in found["default"]}
    columns = {"asr": "ASR", "asr_t1": "ASR, T=1", "leak": "chance of harm"}
    columns |= {"orr": "over-refusal", "accuracy": "accuracy"}
    columns["trained"] = "attacker success"
    lines = [
        "",
        "## What each part is worth",
        "",
        "Variant less default, paired by seed, in points with a 95 % t-interval; **bold** where the"
        " interval leaves 0 out. A row without bold is a difference these seeds do not show.",
        "",
        f"| variant | {' | '.join(columns.values())} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, (title, _) in VARIANTS.items():
        rows = {s.seed: figures(s) for s in found[name] if s.seed in default}
        if name == "default" or len(rows) < 2:
            continue
        cells = [title]
        for key in columns:
            gaps = [
                row[key] - default[seed][key]
                for seed, row in rows.items()
                if key in row and key in default[seed]
            ]
            text = over_seeds(gaps) if gaps else "-"
            mean, _, half = text.partition(" ± ")
            shown = half and abs(float(mean)) > float(half)
            cells.append(f"**{text}**" if shown else text)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def seed_table(summary: RunSummary) -> list[str]:
    """A default run's rates by suite and round, with their intervals over objects."""
    rounds = summary.rounds
    head = " | ".join(f"round {record.round}" for record in rounds)
    lines = [
        f"### Seed {summary.seed}: {summary.wall_seconds:.0f} s",
        "",
        f"| measure | {head} |",
        "|---" * (len(rounds) + 1) + "|",
    ]
    for measure in MEASURES:
        for suite in rounds[0].rates[measure]:
            rates = [record.rates[measure][suite] for record in rounds]
            cells = [
                f"{100 * rate.value:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})"
                for rate in rates
            ]
            lines.append("| " + " | ".join([f"{measure} {suite}", *cells]) + " |")
    return [*lines, ""]


def cpu() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sectow_fast.report.results")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--run", action="store_true", help="play what is missing first")
    parser.add_argument("--seeds", default="13,14,15")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    options = parser.parse_args(arguments)
    try:
        if options.run:
            seeds = [int(seed) for seed in options.seeds.split(",")]
            play_missing(options.runs, seeds, options.jobs)
        options.out.write_text(results_page(options.runs), encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
