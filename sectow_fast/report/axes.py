"""Parts that the figures of a run are made of: axes over the rounds, and lines over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sectow_fast.records import StepRecord
from sectow_fast.report.page import COLOURS, INK, figure, labels, legend_below
from sectow_fast.report.rundata import RunData
from sectow_fast.types import Rate

HEAT = LinearSegmentedColormap.from_list("heat", ["#e4ecf4", "#8fb8de", "#e39a4b", "#c8433a"])
MOST_STYLES = 20  # rows of a heat map, at most
BINS = 60  # points that a line has per round, at most: more cannot be seen
Draw = Callable[[RunData], Figure | None]
Pick = Callable[[StepRecord], float]  # NaN where a step does not have it


def rounds_axis(axes: Axes, run: RunData) -> None:
    axes.set_xticks([record.round for record in run.rounds])
    axes.set_xlabel("round (0: before any RL)")


def error_bars(rates: Sequence[Rate]) -> list[list[float]]:
    """Lengths of the bars below and above each rate, in percent; 0 where it has no interval."""
    below = [max(100 * (rate.value - rate.low), 0) if rate.n else 0 for rate in rates]
    above = [max(100 * (rate.high - rate.value), 0) if rate.n else 0 for rate in rates]
    return [below, above]


def binned(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of at most BINS equal stretches: (place of each, mean of its finite values)."""
    size = max(1, math.ceil(len(values) / BINS))
    places, means = [], []
    for start in range(0, len(values), size):
        live = [v for v in values[start : start + size] if math.isfinite(v)]
        if live:
            places.append(start + (min(size, len(values) - start) - 1) / 2)
            means.append(sum(live) / len(live))
    return places, means


def over_steps(axes: Axes, steps: Iterable[StepRecord], lines: Mapping[str, Pick]) -> bool:
    """Draw each line over the steps of a phase, rounds side by side; False where there is none.

    A line named "total" or "gap" is in ink.
    """
    by_round: dict[int, list[StepRecord]] = {}
    for step in steps:
        by_round.setdefault(step.round, []).append(step)
    begin = 0
    for round, rows in by_round.items():
        for index, (name, pick) in enumerate(lines.items()):
            x, y = binned([pick(row) for row in rows])
            if not x:
                continue
            total = name in ("total", "gap")
            axes.plot(
                [begin + value for value in x],
                y,
                color=INK if total else COLOURS[index % len(COLOURS)],
                linewidth=2 if total else 1.2,
                marker="o" if len(x) == 1 else None,
                markersize=3,
                label=None if name in labels(axes) else name,
            )
        if begin:
            axes.axvline(begin - 0.5, color=INK, linewidth=0.5, linestyle=(0, (2, 2)))
        panel = axes.get_xaxis_transform()  # x in steps, y as a share of the height
        axes.text(begin, 0.99, f" r{round}", transform=panel, va="top", fontsize=7)
        begin += len(rows)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(y=0.14)
    legend_below(axes)
    return bool(labels(axes))


def measure(name: str) -> Pick:
    return lambda step: step.measures.get(name, math.nan)


def panels_over_steps(
    run: RunData, height: float, panels: Mapping[str, tuple[str, Mapping[str, Pick]]]
) -> Figure | None:
    """Panels one below the other: phase -> (title, lines). None where nothing was drawn."""
    fig, axes = figure(height, len(panels))
    drawn = False
    for place, (phase, (title, lines)) in zip(axes, panels.items(), strict=True):
        place.set_title(title)
        drawn |= over_steps(place, (s for s in run.steps if s.phase == phase), lines)
    return fig if drawn else None


def heat_axes(axes: Axes, rows: Sequence[str], heads: Sequence[str]) -> None:
    """The names beside and below the cells of a heat map, its first row above, and no lines."""
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.set_xticks([x + 0.5 for x in range(len(heads))], heads)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
