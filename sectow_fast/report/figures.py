"""The figures of a run: PNG files on white, and the same drawings as SVG for its page."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sectow_fast.report.axes import (
    HEAT,
    MOST_STYLES,
    Draw,
    Pick,
    error_bars,
    heat_axes,
    measure,
    panels_over_steps,
    rounds_axis,
)
from sectow_fast.report.harm import league, leak, leak_styles, proxy_gap
from sectow_fast.report.page import COLOURS, INK, STYLE, figure, legend, legend_below, svg
from sectow_fast.report.rundata import (
    ATTACKER_NAMES,
    PHASE_NAMES,
    RunData,
    harvests,
    phase_seconds,
    sentence,
    share,
    style_rows,
    suite_names,
)
from sectow_fast.rounds import NO_RATE, Measure

STEPS_TITLE = {phase: f"{PHASE_NAMES[phase]}, by step" for phase in ("attack", "defend")}


# ---- over the rounds


def _curves(axes: Axes, run: RunData, measure: Measure, dodge: float = 0.03) -> None:
    """One line per suite with its intervals, and the mean in ink."""
    names = suite_names(run.rounds, measure)
    names = [*names, "mean"] if len(names) != 1 else names
    for index, name in enumerate(names):
        found = [record.rates[measure].get(name, NO_RATE) for record in run.rounds]
        if not any(rate.n for rate in found):
            continue
        shift = dodge * (index - (len(names) - 1) / 2)  # so that intervals do not hide each other
        axes.errorbar(
            [record.round + shift for record in run.rounds],
            [100 * rate.value for rate in found],
            yerr=error_bars(found),
            color=INK if name == "mean" else COLOURS[index % len(COLOURS)],
            elinewidth=0.8,
            capsize=1.5,
            marker="o",
            markersize=3,
            linewidth=2.2 if name == "mean" else 1.3,
            label=name,
        )
    axes.yaxis.set_major_formatter("{x:g}%")


def attack_success(run: RunData) -> Figure | None:
    """ASR by suite and round, greedy, with the mean at temperature 1 dotted."""
    fig, (axes,) = figure(3.3)
    _curves(axes, run, "asr")
    hot = {record.round: 100 * record.mean("asr", t1=True).value for record in run.rounds}
    axes.plot([*hot], [*hot.values()], color=INK, linestyle=":", label="mean, T = 1")
    axes.set_ylim(-2, 102)
    word = {"ASR": "attack success rate"}.get(run.summary.judged.attacks, "not refused")
    axes.set_title(f"{word} (lower is safer)")
    rounds_axis(axes, run)
    legend(fig, axes)
    return fig


def usefulness(run: RunData) -> Figure | None:
    """Over-refusal and accuracy by round: the price of safety."""
    if not (suite_names(run.rounds, "orr") or suite_names(run.rounds, "accuracy")):
        return None
    fig, (top, bottom) = figure(4.4, 2, sharex=True)
    _curves(top, run, "orr")
    _curves(bottom, run, "accuracy")
    top.set_title("over-refusal rate (lower is better)")
    top.set_ylim(bottom=min(0, top.get_ylim()[0]))
    bottom.set_title("accuracy (higher is better), by round")
    bottom.set_xticks([record.round for record in run.rounds])
    for axes in (top, bottom):
        legend_below(axes)
    return fig


def attacker(run: RunData) -> Figure | None:
    """How often held-out attacks of each attacker succeed, by round."""
    names = list(dict.fromkeys(name for record in run.rounds for name in record.attacker_success))
    if not names:
        return None
    fig, (axes,) = figure(2.8)
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        found = [record.attacker_success.get(name, NO_RATE) for record in run.rounds]
        x = [record.round + width * (index - (len(names) - 1) / 2) for record in run.rounds]
        y = [100 * rate.value for rate in found]
        label = ATTACKER_NAMES.get(name, name)
        axes.bar(x, y, width * 0.9, color=COLOURS[index % len(COLOURS)], label=label)
        axes.errorbar(x, y, yerr=error_bars(found), fmt="none", ecolor=INK, elinewidth=0.8)
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.set_ylim(0, 105)
    axes.grid(axis="x", visible=False)
    axes.set_title("success of each attacker on held-out seeds")
    rounds_axis(axes, run)
    legend(fig, axes, 2)
    return fig


def styles(run: RunData) -> Figure | None:
    """Heat map of the share each attack style won in each round's harvest, won / tried inside."""
    rows = style_rows(run.rounds)[:MOST_STYLES]
    if not rows:
        return None
    fig, (axes,) = figure(0.8 + 0.24 * len(rows))
    shares = [[share(cell) for cell in row.cells] for row in rows]
    axes.pcolormesh(shares, cmap=HEAT, vmin=0, vmax=1, edgecolors="none")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row.cells):
            text, colour = "–", INK
            if cell.tried:  # dark or white on the cell's colour, in any theme
                text = f"{cell.won}/{cell.tried}"
                colour = "#1a1a1a" if share(cell) < 0.75 else "#ffffff"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    heads = [f"round {round}" for round, _ in harvests(run.rounds)]
    heat_axes(axes, [row.style for row in rows], heads)
    return fig


# ---- over the steps


def _reward(name: str) -> Pick:
    return lambda step: step.reward.get(name, math.nan)


def rewards(run: RunData) -> Figure | None:
    """Every reward part over the steps of both roles."""
    panels = {}
    for phase, title in STEPS_TITLE.items():
        parts = dict.fromkeys(n for step in run.steps if step.phase == phase for n in step.reward)
        panels[phase] = (title, {name: _reward(name) for name in parts})
    return panels_over_steps(run, 4.8, panels)


def quality(run: RunData) -> Figure | None:
    """What the two monitors watch: attack quality above, over-refusal below."""
    names = ("diversity", "distinct_2", "repetition", "faithful", "well_formed")
    attacks = {name.replace("_", "-"): measure(name) for name in names}
    watched = {"refusals in training": "refusal_rate", "probe ORR": "orr_probe"}
    refusals = {name: measure(key) for name, key in watched.items()}
    panels = {
        "attack": ("attacker monitor: quality of its attacks, by step", attacks),
        "defend": ("defender monitor: refusals of the harmless, by step", refusals),
    }
    return panels_over_steps(run, 4.4, panels)


def signal(run: RunData) -> Figure | None:
    """Share of groups that teach nothing (all rewards equal), and the policy's entropy."""
    lines = {"dead groups (share)": measure("dead_groups"), "entropy (nats)": measure("entropy")}
    return panels_over_steps(run, 4.4, {phase: (t, lines) for phase, t in STEPS_TITLE.items()})


def time_spent(run: RunData) -> Figure | None:
    """Seconds by phase, stacked by what a step spends them on."""
    found = phase_seconds(run)
    if not found:
        return None
    fig, (axes,) = figure(0.9 + 0.34 * len(found))
    names, left = [PHASE_NAMES.get(name, name) for name in found], [0.0] * len(found)
    parts = dict.fromkeys(part for cell in found.values() for part in cell)
    for index, part in enumerate(parts):
        width = [cell.get(part, 0.0) for cell in found.values()]
        axes.barh(names, width, left=left, color=COLOURS[index % len(COLOURS)], label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    for y, total in enumerate(left):
        axes.annotate(f"{total:.0f} s", (total, y), (3, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds")
    legend(fig, axes, 4)
    return fig


FIGURES: dict[str, tuple[str, Draw]] = {
    "asr": ("Attack success by suite and round", attack_success),
    "usefulness": ("Over-refusal and accuracy by round", usefulness),
    "leak": ("Chance of harm, computed over the attack grammar", leak),
    "attacker": ("Trained attacker against self-instruct", attacker),
    "league": ("League: every attacker against every defender", league),
    "styles": ("Won / tried, by harvest", styles),
    "leak_styles": ("Chance of harm by style and round, computed", leak_styles),
    "proxy": ("Proxy judge against the exact one", proxy_gap),
    "rewards": ("Reward parts over the steps", rewards),
    "quality": ("What the monitors watch", quality),
    "signal": ("Dead groups and entropy", signal),
    "time": ("Where the time went", time_spent),
}


def draw_all(run: RunData, out: Path) -> dict[str, tuple[str, str]]:
    """Draw every figure there is data for: `out/NAME.png`, and {name: (title, svg)}."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, (title, draw) in FIGURES.items():
        with matplotlib.rc_context(STYLE):
            fig = draw(run)
            if fig is None:
                continue
            fig.savefig(out / f"{name}.png", dpi=200, facecolor="white")
            fig.set_layout_engine("none")  # every part has its place: do not compute it again
            if name == "asr" and run.summary.judged.attacks != "ASR":
                title = f"{sentence(run.summary.judged.attacks)}, by suite and round"
            drawn[name] = (title, svg(fig, name, title))
    return drawn
