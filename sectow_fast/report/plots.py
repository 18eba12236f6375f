"""Figures of a run: PNG files on white, and the same drawn as SVG for the HTML report.

Each figure is narrow (4.4 inches), so that its text is still readable when it is shown 350 pixels
wide on a phone. In the SVG the ink and the grid are CSS variables of the page, so one drawing
serves light and dark; its text stays text (searchable, in the page's own font).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
from sectow_fast.report.curves import attack_success, attacker, usefulness
from sectow_fast.report.rundata import (
    PHASE_NAMES,
    RunData,
    number,
    phase_seconds,
    style_rows,
)

Draw = Callable[[RunData], Figure | None]


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
    names = ("diversity", "distinct_2", "repetition", "faithful", "well_formed")
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
    "styles": ("Won / tried, by harvest", styles),
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
