"""Bars of what an example reports, for the gallery: learning_to_explain.svg in docs/_static.

python docs/pictures/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

matplotlib.rcParams["svg.fonttype"] = "none"
OUT = Path(__file__).resolve().parents[1] / "_static"


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
    learning_to_explain()
