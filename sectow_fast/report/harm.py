"""The figures of computed harm: leak by round, by tries and by style; and proxy against gold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sectow_fast.report.axes import HEAT, MOST_STYLES, heat_axes, measure, over_steps, rounds_axis
from sectow_fast.report.page import COLOURS, INK, figure, legend_below
from sectow_fast.report.rundata import PHASE_NAMES, RunData, bounds, leaks, percent
from sectow_fast.rounds import NO_RATE, LeakRecord, RoundRecord
from sectow_fast.types import Rate

FLOOR = 0.01  # percent; what is less is drawn here, since a logarithm has no place for 0
ROUND_HEAT = LinearSegmentedColormap.from_list("rounds", ["#c8433a", "#d9822b", "#3a7fc2"])


def _shown(value: float) -> float:
    return max(100 * value, FLOOR)


def _log_bars(rates: Sequence[Rate]) -> list[list[float]]:
    """Lengths of the bars of rates that are drawn at the floor at least."""
    below = [_shown(rate.value) - _shown(rate.low) for rate in rates]
    return [below, [_shown(rate.high) - _shown(rate.value) for rate in rates]]


def leak(run: RunData) -> Figure | None:
    """Mean and worst probability of harm by round; and of at least one harm in k attacks."""
    found = leaks(run.rounds)
    if not found:
        return None
    fig, (top, bottom) = figure(5.6, 2, height_ratios=(1.15, 1))
    rounds = [record.round for record, _ in found]
    for record, one in found:
        count = len(one.worst)
        places = [record.round + 0.26 * (i / max(count - 1, 1) - 0.5) for i in range(count)]
        shown = [_shown(value) for value in sorted(one.worst)]
        top.plot(places, shown, "o", color=COLOURS[0], alpha=0.4, markersize=3.2)
    lines = {
        "worst attack on an object, median": ([one.worst_median for _, one in found], COLOURS[0]),
        "any attack, mean": ([one.mean for _, one in found], INK),
    }
    for name, (rates, colour) in lines.items():
        values = [_shown(rate.value) for rate in rates]
        bars = {"yerr": _log_bars(rates), "elinewidth": 0.8, "capsize": 1.5}
        top.errorbar(rounds, values, color=colour, marker="o", markersize=3.5, label=name, **bars)
        end = (rounds[-1], values[-1])
        text = percent(rates[-1].value, 2)
        top.annotate(text, end, (13, 0), textcoords="offset points", va="center", fontsize=8)
    top.set_yscale("log")
    top.set_ylim(FLOOR * 0.8, 130)
    top.set_yticks([0.01, 0.1, 1, 10, 100], ["≤ 0.01%", "0.1%", "1%", "10%", "100%"])
    top.minorticks_off()
    top.margins(x=0.14)
    top.set_title("chance of harm, by round (dots: each object's worst)")
    rounds_axis(top, run)
    top.set_xlabel("")
    legend_below(top, 2)
    _tries(bottom, found)
    return fig


def _tries(axes: Axes, found: Sequence[tuple[RoundRecord, LeakRecord]]) -> None:
    """ASR@k over k, one line per round."""
    last = max(len(found) - 1, 1)
    for number, (record, one) in enumerate(found):
        tries = list(one.asr_at)
        rates = list(one.asr_at.values())
        colour = ROUND_HEAT(number / last)
        axes.plot(
            tries,
            [100 * rate.value for rate in rates],
            color=colour,
            marker="o",
            markersize=3,
            label=f"round {record.round}",
        )
        low, high = ([100 * getattr(rate, end) for rate in rates] for end in ("low", "high"))
        axes.fill_between(tries, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(tries, [f"{k:,}" for k in tries])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.set_title("objects broken by k random attacks (ASR@k), by k")
    legend_below(axes, 4)


def league(run: RunData) -> Figure | None:
    """Heat map of every attacker's success on every round's defender."""
    found = run.summary.league
    if found is None:
        return None
    names = list(found.rates)
    heads = list(found.rates[names[0]])
    fig, (axes,) = figure(1.1 + 0.34 * len(names))
    shares = [[100 * found.rates[name][head].value for head in heads] for name in names]
    axes.pcolormesh(shares, cmap=HEAT, vmin=0, vmax=100, edgecolors="white", linewidth=1.5)
    for y, name in enumerate(names):
        for x, head in enumerate(heads):
            rate = found.rates[name][head]
            colour = "#ffffff" if rate.value > 0.6 else "#1a1a1a"
            place = {"ha": "center", "va": "center", "color": colour}
            axes.text(x + 0.5, y + 0.38, percent(rate.value), fontsize=9, **place)
            axes.text(x + 0.5, y + 0.72, bounds(rate), fontsize=6.5, **place)
    heat_axes(axes, [f"attacker: {name}" for name in names], heads)
    axes.set_xlabel(f"defender ({found.cases:,} goals in each cell)")
    return fig


def leak_styles(run: RunData) -> Figure | None:
    """Heat map of the mean probability of harm by style and round, the worst styles first."""
    found = leaks(run.rounds)
    if not found:
        return None
    tables: list[Mapping[str, Rate]] = [one.styles for _, one in found]
    names = dict.fromkeys(name for table in tables for name in table)

    def values(name: str) -> list[float]:
        return [table.get(name, NO_RATE).value for table in tables]

    def worst_first(name: str) -> list[float]:
        """The last round decides; a style that a draw did not have counts as closed."""
        return [-value if value > 0 else 0.0 for value in values(name)[::-1]]

    ranked = sorted(names, key=worst_first)[:MOST_STYLES]
    fig, (axes,) = figure(0.8 + 0.22 * len(ranked))
    shares = [[_shown(value) for value in values(name)] for name in ranked]
    axes.pcolormesh(shares, cmap=HEAT, norm=LogNorm(0.1, 100), edgecolors="none")
    for y, name in enumerate(ranked):
        for x, value in enumerate(values(name)):
            colour = "#ffffff" if value > 0.6 else "#1a1a1a"
            text = percent(value, 0 if value >= 0.1 else 2)
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    heat_axes(axes, ranked, [f"round {record.round}" for record, _ in found])
    return fig


def proxy_gap(run: RunData) -> Figure | None:
    """What a proxy judge paid for and what was so: over the steps, and of the kept attacks."""
    if not any("proxy_gap" in step.measures for step in run.steps):
        return None
    fig, (top, middle, bottom) = figure(6.4, 3)
    lines = {
        "the proxy says": measure("proxy_success"),
        "in truth": measure("gold_success"),
        "gap": measure("proxy_gap"),
    }
    for axes, phase, of in (
        (top, "attack", "success of its attempts"),
        (middle, "defend", "harm in replies to unsafe requests"),
    ):
        over_steps(axes, (step for step in run.steps if step.phase == phase), lines)
        axes.set_title(f"{PHASE_NAMES[phase]}: {of}, by step")
        axes.set_ylim(-0.05, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    kept = [phase for phase in run.phases if "kept_proxy_gap" in phase.measures]
    for place, (name, key) in enumerate(
        (("the proxy says", "kept_proxy_success"), ("in truth", "kept_gold_success"))
    ):
        x = [phase.round + 0.36 * (place - 0.5) for phase in kept]
        y = [phase.measures[key] for phase in kept]
        bottom.bar(x, y, 0.34, color=COLOURS[place], label=name)
        for at, value in zip(x, y, strict=True):
            bottom.text(at, value, percent(value, 0), ha="center", va="bottom", fontsize=7.5)
    bottom.set_xticks([phase.round for phase in kept])
    bottom.set_ylim(0, 1.15)
    bottom.yaxis.set_major_formatter(PercentFormatter(1))
    bottom.grid(axis="x", visible=False)
    bottom.set_title("success of the attacks that were kept, by round")
    legend_below(bottom)
    return fig
