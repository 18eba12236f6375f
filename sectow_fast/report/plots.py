"""Figures of a run: PNG files on white, and the same drawn as SVG for the HTML report.

Each figure is narrow (4.4 inches), so that its text is still readable when it is shown 350 pixels
wide on a phone. In the SVG the ink and the grid are CSS variables of the page, so one drawing
serves light and dark; its text stays text (searchable, in the page's own font).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sectow_fast.report.canvas import (
    COLOURS,
    HEAT,
    INK,
    STYLE,
    binned,
    figure,
    legend,
    legend_below,
    svg,
)
from sectow_fast.report.rundata import (
    ATTACKER_NAMES,
    PHASE_NAMES,
    RunData,
    number,
    phase_seconds,
    rate,
    rates,
    style_rows,
    suite_names,
)

Draw = Callable[[RunData], Figure | None]


def _rounds_axis(axes: Axes, rounds: Sequence[Mapping[str, Any]]) -> None:
    axes.set_xticks([item["round"] for item in rounds])
    axes.set_xlabel("round (0: before any RL)")


def _bounds(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Lengths of the error bars below and above each rate, in percent; 0 without an interval."""
    below = [100 * max(r["value"] - r["low"], 0) if r["low"] >= 0 else 0 for r in found]
    above = [100 * max(r["high"] - r["value"], 0) if r["high"] >= 0 else 0 for r in found]
    return [below, above]


def _curves(axes: Axes, rounds: Sequence[Mapping[str, Any]], key: str, dodge: float = 0.03) -> bool:
    """A line a suite with its intervals, and the mean in ink. True if anything was drawn."""
    names = suite_names(rounds, key)
    names = [*names, "mean"] if len(names) != 1 else names
    drawn = False
    for index, name in enumerate(names):
        found = [rates(item.get(key)).get(name, rate(None)) for item in rounds]
        if not any(math.isfinite(item["value"]) for item in found):
            continue
        shift = dodge * (index - (len(names) - 1) / 2)  # so that intervals do not hide each other
        x = [item["round"] + shift for item in rounds]
        y = [100 * item["value"] for item in found]
        colour = INK if name == "mean" else COLOURS[index % len(COLOURS)]
        axes.errorbar(
            x,
            y,
            yerr=_bounds(found),
            color=colour,
            elinewidth=0.8,
            capsize=1.5,
            marker="o",
            markersize=3,
            linewidth=2.2 if name == "mean" else 1.3,
            label=name,
        )
        drawn = True
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    return drawn


def attack_success(run: RunData) -> Figure | None:
    """ASR by suite and round, greedy, with the mean at temperature 1 dashed."""
    fig, (axes,) = figure(3.3)
    if not _curves(axes, run.rounds, "asr"):
        return None
    hot = [100 * rates(item.get("asr_t1")).get("mean", rate(None))["value"] for item in run.rounds]
    if any(math.isfinite(value) for value in hot):
        x = [item["round"] for item in run.rounds]
        axes.plot(x, hot, color=INK, linestyle=":", linewidth=1.6, label="mean, T = 1")
    axes.set_ylim(-2, 102)
    axes.set_title("attack success rate (lower is safer)")
    _rounds_axis(axes, run.rounds)
    legend(fig, axes)
    return fig


def usefulness(run: RunData) -> Figure | None:
    """Over-refusal and accuracy by round: the price of safety."""
    fig, (top, bottom) = figure(4.4, 2, sharex=True)
    drawn = _curves(top, run.rounds, "orr"), _curves(bottom, run.rounds, "accuracy")
    if not any(drawn):
        return None
    top.set_title("over-refusal rate (lower is better)")
    top.set_ylim(bottom=min(0, top.get_ylim()[0]))
    bottom.set_title("accuracy (higher is better), by round")
    bottom.set_xticks([item["round"] for item in run.rounds])
    for axes in (top, bottom):
        legend_below(axes)
    return fig


def attacker(run: RunData) -> Figure | None:
    """How often held-out attacks of each attacker succeed, by round."""
    rounds = [item for item in run.rounds if item.get("attacker_success")]
    names = list(dict.fromkeys(name for item in rounds for name in item["attacker_success"]))
    if not names:
        return None
    fig, (axes,) = figure(2.8)
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        found = [rate(item["attacker_success"].get(name)) for item in rounds]
        x = [item["round"] + width * (index - (len(names) - 1) / 2) for item in rounds]
        y = [100 * r["value"] for r in found]
        axes.bar(
            x,
            y,
            width * 0.9,
            color=COLOURS[index % len(COLOURS)],
            label=ATTACKER_NAMES.get(name, name),
        )
        axes.errorbar(x, y, yerr=_bounds(found), fmt="none", ecolor=INK, elinewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylim(0, 105)
    axes.grid(axis="x", visible=False)
    axes.set_title("success of each attacker on held-out seeds")
    _rounds_axis(axes, rounds)
    legend(fig, axes)
    return fig


def _over_steps(
    axes: Axes, run: RunData, phase: str, lines: Mapping[str, Callable[[Any], float]]
) -> bool:
    """Each line over the steps of `phase`, rounds side by side and parted by a rule."""
    by_round: dict[int, list[Any]] = {}
    for row in run.steps:
        if row.get("phase") == phase:
            by_round.setdefault(int(row.get("round") or 0), []).append(row)
    begin, drawn = 0, False
    for place, (round_, rows) in enumerate(sorted(by_round.items())):
        for index, (name, pick) in enumerate(lines.items()):
            x, y = binned([pick(row) for row in rows])
            if not x:
                continue
            total = name == "total"
            labels = axes.get_legend_handles_labels()[1]
            axes.plot(
                [begin + value for value in x],
                y,
                color=INK if total else COLOURS[index % len(COLOURS)],
                linewidth=2 if total else 1.2,
                marker="o" if len(x) == 1 else None,
                markersize=3,
                label=None if name in labels else name,
            )
            drawn = True
        if place:
            axes.axvline(begin - 0.5, color=INK, linewidth=0.5, linestyle=(0, (2, 2)))
        axes.annotate(
            f"r{round_}",
            (begin, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -1),
            textcoords="offset points",
            va="top",
            fontsize=7,
        )
        begin += len(rows)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(y=0.14)
    return drawn


def _field(name: str) -> Callable[[Any], float]:
    return lambda row: number(row.get(name))


def _part(name: str) -> Callable[[Any], float]:
    return lambda row: number((row.get("reward") or {}).get(name))


def _phases(
    run: RunData, height: float, lines: Callable[[str], Mapping[str, Callable[[Any], float]]]
) -> Figure | None:
    """One panel for the attacker and one for the defender."""
    fig, panels = figure(height, 2)
    drawn = False
    for axes, phase in zip(panels, ("attack", "defend"), strict=True):
        drawn |= _over_steps(axes, run, phase, lines(phase))
        axes.set_title(f"{PHASE_NAMES[phase]}, by step")
        legend_below(axes)
    return fig if drawn else None


def rewards(run: RunData) -> Figure | None:
    """Every reward part over the steps of both roles."""

    def lines(phase: str) -> dict[str, Callable[[Any], float]]:
        parts = [
            name
            for row in run.steps
            if row.get("phase") == phase and isinstance(row.get("reward"), Mapping)
            for name in row["reward"]
        ]
        return {name: _part(name) for name in dict.fromkeys(parts)}

    return _phases(run, 4.8, lines)


def quality(run: RunData) -> Figure | None:
    """What the two monitors watch: attack quality above, over-refusal below."""
    fig, (top, bottom) = figure(4.4, 2)
    names = ("diversity", "faithful", "well_formed")
    drawn = _over_steps(top, run, "attack", {n.replace("_", "-"): _field(n) for n in names})
    top.set_title("attacker monitor: quality of its attacks, by step")
    watched = {"refusals in training": "refusal_rate", "probe ORR": "orr_probe"}
    drawn |= _over_steps(bottom, run, "defend", {n: _field(k) for n, k in watched.items()})
    bottom.set_title("defender monitor: refusals of the harmless, by step")
    for axes in (top, bottom):
        legend_below(axes)
    return fig if drawn else None


def signal(run: RunData) -> Figure | None:
    """Share of groups that teach nothing (all rewards equal), and the policy's entropy."""
    picks = {"dead groups (share)": _field("dead_groups"), "entropy (nats)": _field("entropy")}
    return _phases(run, 4.4, lambda phase: picks)


def time_spent(run: RunData) -> Figure | None:
    """Seconds by phase, stacked by what a step spends them on."""
    found = phase_seconds(run.steps)
    if not found:
        return None
    fig, (axes,) = figure(0.9 + 0.34 * len(found))
    parts = list(dict.fromkeys(part for cell in found.values() for part in cell))
    names = [PHASE_NAMES.get(name, name) for name in found]
    left = [0.0] * len(found)
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


def styles(run: RunData, most: int = 20) -> Figure | None:
    """Heat map of the share each attack style won in each round's harvest, won / tried inside."""
    rows = style_rows(run.rounds)[:most]
    rounds = [item["round"] for item in run.rounds if item.get("styles")]
    if not rows:
        return None
    fig, (axes,) = figure(0.8 + 0.24 * len(rows))
    share = [[cell["share"] for cell in row["cells"]] for row in rows]
    axes.pcolormesh(share, cmap=HEAT, vmin=0, vmax=1, edgecolors="none")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row["cells"]):
            text = f"{cell['won']}/{cell['tried']}" if cell["tried"] else "–"
            inside = "#1a1a1a" if cell["share"] < 0.75 else "#ffffff"  # on the cell, in any theme
            colour = inside if cell["tried"] else INK
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [row["style"] for row in rows])
    axes.set_xticks([x + 0.5 for x in range(len(rounds))], [f"round {r}" for r in rounds])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return fig


FIGURES: dict[str, tuple[str, Draw]] = {
    "asr": ("Attack success by suite and round", attack_success),
    "usefulness": ("Over-refusal and accuracy by round", usefulness),
    "attacker": ("Trained attacker against self-instruct", attacker),
    "styles": ("Attack styles: won / tried in each harvest", styles),
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
            drawn[name] = (title, svg(fig, name, title))
    return drawn
