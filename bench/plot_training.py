"""Draw bench/results/cpu-training-step.json: the cost of an update against G.

python bench/plot_training.py [RESULTS.json [OUT.png]]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent / "results"
STYLES = {
    "trl": ("TRL 1.16", "#b3572b", "s"),
    "padded": ("padded rows", "#8a8a8a", "^"),
    "unshared": ("packed, prompt once per completion", "#5b8db8", "v"),
    "shared": ("ours: prompt once per group", "#14653f", "o"),
}


def main(results: Path, out: Path) -> None:
    (found,) = json.loads(results.read_text())["rows"]
    rows = [
        row
        for row in found["updates"]
        if (row["model"], row["prompt"], row["completion"]) == ("llava", 256, 32)
    ]
    rows.sort(key=lambda row: row["group_size"])
    sizes = [row["group_size"] for row in rows]
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for name, (label, colour, marker) in STYLES.items():
        cost = [1e3 * row["seconds"][name] / row["prompts"] for row in rows]
        axes.plot(sizes, cost, marker=marker, color=colour, label=label, linewidth=1.8)
        if name not in ("trl", "shared"):
            continue  # the others end within a line's width of TRL
        axes.annotate(
            f"{cost[-1]:.0f} ms",
            (sizes[-1], cost[-1]),
            xytext=(8, -3),
            textcoords="offset points",
            color=colour,
            fontsize=9,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlim(sizes[0] * 0.9, sizes[-1] * 1.45)
    axes.set_xlabel("G, completions per prompt")
    axes.set_ylabel("ms per group, forward and backward")
    axes.set_title("One update: prompt 256 tokens with a picture, completions of 32 tokens")
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    given = [Path(one) for one in sys.argv[1:]]
    source = given[0] if given else HERE / "cpu-training-step.json"
    main(source, given[1] if len(given) > 1 else source.with_suffix(".png"))
