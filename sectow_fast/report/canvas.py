"""The paper the figures are drawn on: one style, and its SVG made fit to stand in a page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, FAINT = "#1c2733", "#d5dbe1"  # replaced by var(--ink), var(--grid) in the SVG
COLOURS = ("#3a7fc2", "#d9822b", "#2a9d8f", "#9467bd", "#c94f6d", "#7f8f2c", "#5f7a94", "#b07a4a")
HEAT = LinearSegmentedColormap.from_list("heat", ["#e4ecf4", "#8fb8de", "#e39a4b", "#c8433a"])
WIDTH = 4.4
BINS = 60  # points a line has at most, a round: more cannot be seen
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


def figure(height: float, rows: int = 1, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `height` inches with `rows` panels, one below the other."""
    made = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(made)
    return made, list(made.subplots(rows, 1, squeeze=False, **kwargs)[:, 0])


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """A legend under the figure, where it hides nothing; left out for a single line."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)


def legend_below(axes: Axes, columns: int = 3) -> None:
    """A legend under one panel of several; the panel must have no x label."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


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


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element that can stand in a page beside others."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = text.replace(INK, "var(--ink)").replace(FAINT, "var(--grid)")
    label = re.sub(r"[^\w /:-]", "", title)
    # The size is the page's to give; the viewBox keeps the proportions.
    return re.sub(
        r'<svg ([^>]*?)(?:width|height)="[^"]+"([^>]*?)(?:width|height)="[^"]+"',
        rf'<svg role="img" aria-label="{label}" \1\2',
        text,
        count=1,
    )
