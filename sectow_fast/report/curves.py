"""Figures over the rounds: attack success, over-refusal and accuracy, the attackers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sectow_fast.report.canvas import COLOURS, INK, figure, legend, legend_below
from sectow_fast.report.rundata import ATTACKER_NAMES, RunData, rate, rates, suite_names


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
    axes.yaxis.set_major_formatter("{x:g}%")
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
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.set_ylim(0, 105)
    axes.grid(axis="x", visible=False)
    axes.set_title("success of each attacker on held-out seeds")
    _rounds_axis(axes, rounds)
    legend(fig, axes, 2)
    return fig
