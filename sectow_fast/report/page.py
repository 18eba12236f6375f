"""What the two HTML pages share: the style of their figures, and how a page is written.

Each figure is narrow (4.4 inches), so that its text can still be read when it is shown 350 pixels
wide on a phone. In the SVG the ink and the grid are CSS variables of the page, so one drawing
serves light and dark. Its text stays text: searchable, and in the page's own font.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sectow_fast.texts import mended

INK, FAINT = "#1c2733", "#d5dbe1"  # replaced by var(--ink), var(--grid) in the SVG
COLOURS = ("#3a7fc2", "#d9822b", "#2a9d8f", "#9467bd", "#c94f6d", "#7f8f2c", "#5f7a94", "#b07a4a")
WIDTH = 4.4
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table of rates: the value, its interval and a remark below it."""

    value: str = ""
    bounds: str = ""
    note: str = ""
    best: bool = False  # of its column


def figure(height: float, rows: int = 1, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `height` inches with `rows` panels, one below the other."""
    made = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(made)
    return made, list(made.subplots(rows, 1, squeeze=False, **kwargs)[:, 0])


def labels(axes: Axes) -> list[str]:
    """Names of the lines that a legend would show."""
    return axes.get_legend_handles_labels()[1]


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """A legend under the figure, where it hides nothing; left out for a single line."""
    if len(labels(axes)) > 1:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=columns, columnspacing=1.2)


def legend_below(axes: Axes, columns: int = 3) -> None:
    """A legend under one panel of several, which has no x label; left out for a single line."""
    if len(labels(axes)) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


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


def render(template: str, **values: Any) -> str:
    """The text of a page. Values are escaped unless they are Markup; a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sectow_fast.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(values)


def write_page(path: Path, text: str, *, owner_only: bool = False) -> Path:
    """Write a page, whole or not at all; returns its path. owner_only: only its owner may read."""
    part = path.with_suffix(".html.part")
    part.write_text(mended(text)[0], encoding="utf-8")
    if owner_only:
        part.chmod(0o600)
    os.replace(part, path)
    return path
