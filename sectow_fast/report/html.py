"""`report.html`: one file that shows a whole run, with nothing to fetch from anywhere.

    python -m sectow_fast.report.html RUN_DIR [--reveal]

What an attack says and what it is after are left out of the file, not just out of sight, unless
`reveal` is set: a report can be passed on without passing on attacks.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from sectow_fast.report.axes import MOST_STYLES
from sectow_fast.report.figures import draw_all
from sectow_fast.report.page import render, write_page
from sectow_fast.report.round_table import round_table
from sectow_fast.report.rundata import (
    OPEN_SHARE,
    PHASE_NAMES,
    RunData,
    attackers,
    bounds,
    clock,
    current_success,
    drop_reasons,
    figstep,
    harvests,
    leaks,
    load,
    percent,
    phase_seconds,
    sentence,
    style_rows,
)
from sectow_fast.rounds import RoundRecord
from sectow_fast.types import Attack, UserError

SAMPLE = 24  # attacks of the pool that are shown
ATTACKS = {
    "ASR": "Attack success rate (ASR) is the share of judged jailbreak requests to which the "
    "defender gives harmful help, with greedy decoding. ",
    "not refused": "Not refused is the share of jailbreak requests that the defender answers about "
    "their goal without refusing in full, with greedy decoding. Only the rule judged, which knows "
    "of refusals and not of harm: this is no attack success rate. ",
}
EXPLAINED = (
    "Replies that the judge could not tell are counted "
    "apart. Over-refusal rate (ORR) is the share of harmless requests that it refuses. Accuracy is "
    "the share of harmless questions with a short answer that it gets right; a refusal is wrong. "
    "The trained attacker's figure is how many times as often its requests succeed as "
    "self-instruct requests do, both on held-out seeds against the round-0 defender. Round 0 is "
    "the defender before any reinforcement learning. Small figures are 95 % intervals, by "
    "bootstrap over the objects that the cases are about. Where all cases agree they are Wilson's "
    "over the objects, and where each case has an object of its own, Wilson's over the cases."
)
LEAK_EXPLAINED = (
    "The chance of harm is computed from the defender's own probabilities at temperature 1, over "
    "the attacks on held-out objects that the world's grammar has, and not sampled. ASR@k is the "
    "chance that at least one of k attacks on an object succeeds, each drawn anew from all of them "
    "and answered once. All are means over objects unless said."
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A figure on top of the page: what it is, what it was before, and a remark."""

    label: str
    value: str
    before: str = ""
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class TimeRow:
    """A phase's time, its share of the wall time, its steps and its median tokens per second."""

    name: str
    time: str
    share: str
    steps: str = "–"
    speed: str = "–"


def cards(rounds: Sequence[RoundRecord], *, attacks: str = "ASR") -> list[Card]:
    """The figures on top: the last round beside the first. attacks: as in `round_table`."""
    first, last = rounds[0], rounds[-1]
    change = 100 * (last.mean("accuracy").value - first.mean("accuracy").value)
    found = []
    for label, before, after in (
        (f"Mean {attacks}", first.mean("asr"), last.mean("asr")),
        (f"FigStep {attacks}", figstep(first), figstep(last)),
        ("Mean ORR", first.mean("orr"), last.mean("orr")),
        ("Accuracy", first.mean("accuracy"), last.mean("accuracy")),
    ):
        if not math.isfinite(after.value):
            continue
        remark = f"{change:+.1f} points" if label == "Accuracy" else f"95 %: {bounds(after)}"
        was = percent(before.value, unit="") if last is not first else ""
        found.append(Card(label=label, value=percent(after.value), before=was, remark=remark))
    found += leak_cards(rounds)
    tried = [rate for rate in map(current_success, rounds) if rate.n]
    if tried:
        was = percent(tried[0].value, unit="") if len(tried) > 1 else ""
        remark = "on the defender of its own round, first to last"
        value = percent(tried[-1].value)
        found.append(Card(label="Attacker succeeds", value=value, before=was, remark=remark))
    pair = attackers(rounds)
    if pair and math.isfinite(pair.ratio):
        remark = f"{percent(pair.trained.value)} against {percent(pair.self_instruct.value)}"
        found.append(Card(label="Trained attacker", value=f"{pair.ratio:.1f}×", remark=remark))
    return found


def leak_cards(rounds: Sequence[RoundRecord]) -> list[Card]:
    """The computed chance of harm, of any attack and of the worst on an object."""
    found = [one for _, one in leaks(rounds)]
    if not found:
        return []
    first, last = found[0], found[-1]
    several = len(found) > 1
    return [
        Card(
            label="Chance of harm, mean",
            value=percent(last.mean.value, 2),
            before=percent(first.mean.value, unit="") if several else "",
            remark=f"computed over {last.attacks:,} attacks on {len(last.worst)} objects",
        ),
        Card(
            label="Worst attack on an object",
            value=percent(last.worst_median.value),
            before=percent(first.worst_median.value, unit="") if several else "",
            remark=f"median over objects; {percent(max(last.worst))} at most",
        ),
    ]


def pool_counts(pool: Sequence[Attack]) -> list[tuple[str, Counter[int]]]:
    """(style, round -> attacks), most frequent style first."""
    found: dict[str, Counter[int]] = {}
    for attack in pool:
        found.setdefault(attack.case.style, Counter())[attack.round] += 1
    return sorted(found.items(), key=lambda item: -item[1].total())


def pool_sample(pool: Sequence[Attack]) -> list[Attack]:
    """SAMPLE attacks, spread over the rounds; always the same ones."""
    picked = random.Random("pool sample").sample(range(len(pool)), min(SAMPLE, len(pool)))
    return [pool[at] for at in sorted(picked)]


def time_rows(run: RunData) -> list[TimeRow]:
    """One row per phase, then what the phases did not count."""
    wall, rows, counted = run.summary.wall_seconds, [], 0.0
    for phase, parts in phase_seconds(run).items():
        steps = [step for step in run.steps if step.phase == phase]
        speeds = [
            s.measures["tokens_per_second"] for s in steps if "tokens_per_second" in s.measures
        ]
        seconds = sum(parts.values())
        counted += seconds
        rows.append(
            TimeRow(
                name=PHASE_NAMES.get(phase, phase),
                time=clock(seconds),
                share=percent(seconds / wall, 0) if wall else "–",
                steps=str(len(steps)) if steps else "–",
                speed=f"{statistics.median(speeds):,.0f}" if speeds else "–",
            )
        )
    rest = wall - counted
    if rest > 0.5:
        share = percent(rest / wall, 0)
        rows.append(TimeRow(name="everything else", time=clock(rest), share=share))
    return rows


def page_of(run: RunData, drawings: Mapping[str, tuple[str, str]], *, reveal: bool) -> str:
    """The text of a run's page. drawings: figure -> (title, SVG), as `draw_all` gives them."""
    summary = run.summary
    variant = [f"attacker {summary.attacker}", f"defender {summary.defender}"]
    variant += [f"ablate {name}" for name in summary.ablate]
    return render(
        "report.html.j2",
        name=run.folder.resolve().name,
        summary=summary,
        variant=", ".join(variant),
        wall=clock(summary.wall_seconds),
        cards=cards(run.rounds, attacks=summary.judged.attacks),
        judged=sentence(summary.judged.words()),
        explained=ATTACKS[summary.judged.attacks] + EXPLAINED,
        leak_explained=LEAK_EXPLAINED if leaks(run.rounds) else "",
        rounds=[record.round for record in run.rounds],
        table=round_table(run.rounds, attacks=summary.judged.attacks),
        # Our own drawing: its texts were escaped by the SVG writer.
        figures={key: (title, Markup(drawing)) for key, (title, drawing) in drawings.items()},
        styles=style_rows(run.rounds),
        most_styles=MOST_STYLES,
        open_share=percent(OPEN_SHARE, 0),
        pool_size=len(run.pool),
        pool_rounds=sorted({attack.round for attack in run.pool}),
        pool_styles=pool_counts(run.pool),
        sample=pool_sample(run.pool) if reveal else [],
        percent=percent,
        reveal=reveal,
        phase_names=PHASE_NAMES,
        events=run.events,
        reasons=drop_reasons(run.rounds),
        harvests=harvests(run.rounds),
        times=time_rows(run),
        config=run.config,
        torn=run.torn,
        command=f"python -m sectow_fast.report.html {run.folder} --reveal",
    )


def write_report(run_dir: str | Path, reveal: bool = False) -> Path:
    """Write `report.html` and `plots/*.png` into a finished run's folder; returns the page's path.

    The page is put in place whole or not at all. UserError for a folder that is not a run.
    """
    run = load(run_dir)
    text = page_of(run, draw_all(run, run.folder / "plots"), reveal=reveal)
    return write_page(run.folder / "report.html", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m sectow_fast.report.html", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--reveal", action="store_true", help="show the words of attacks")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run_dir, options.reveal))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
