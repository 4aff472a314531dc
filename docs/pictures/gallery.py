"""Bars of what the examples report, for the gallery: own_structure.svg and learning_to_explain.svg in docs/_static.

python docs/pictures/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

matplotlib.rcParams["svg.fonttype"] = "none"
OUT = Path(__file__).resolve().parents[1] / "_static"


def own_structure() -> None:
    """The table of examples/README.md."""
    sets = ("team", "reviewers", "schedule")
    rows = {"logistic": (66.4, 76.0, 77.0), "through the set": (89.7, 87.4, 86.4), "expert": (89.9, 87.6, 87.2)}
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for i, (name, values) in enumerate(rows.items()):
        axis.bar(
            [x + 0.26 * (i - 1) for x in range(3)], values, 0.24, label=name, color=("#bbbbbb", "C0", "#666666")[i]
        )
    axis.set(xticks=range(3), ylim=(50, 100), ylabel="agreement with the expert, %")
    axis.set_xticklabels(sets)
    axis.legend(fontsize=8, ncols=3, loc="upper center")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT / "own_structure.svg", metadata={"Date": None})


def learning_to_explain() -> None:
    """Druglib, side effects, k = 10, 900 steps: means of the table of examples/learning_to_explain/RESULTS.md."""
    rows = {
        "l2x": (42.7, 1.3),
        "softsub": (38.8, 4.0),
        "euclidean": (40.7, 3.2),
        "categorical": (40.0, 1.8),
        "binary": (42.6, 1.4),
        "exponential": (41.7, 1.6),
        "correlated": (45.8, 4.6),
        "segments": (45.7, 5.5),
    }
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    means, spread = zip(*rows.values(), strict=True)
    colors = ["#bbbbbb"] * 2 + ["C0"] * 4 + ["C1"] * 2
    axis.barh(range(len(rows)), means, xerr=spread, color=colors, error_kw={"linewidth": 1, "ecolor": "#555555"})
    axis.set(yticks=range(len(rows)), xlim=(30, 55), xlabel="chosen words about the aspect, %")
    axis.set_yticklabels(list(rows))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT / "learning_to_explain.svg", metadata={"Date": None})


if __name__ == "__main__":
    own_structure()
    learning_to_explain()
