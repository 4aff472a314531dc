"""The way of the data, from declaration to estimator: docs/_static/house.svg.

python docs/pictures/house.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a fifth of the size
OUT = Path(__file__).resolve().parents[1] / "_static" / "house.svg"
INK, GREY, GIVEN, OURS, PATH, USE = "#222222", "#777777", "#f3efe2", "#dfe8f2", "#e3f0e3", "#f4e3e3"


class Plan:
    """Boxes by their centre, size and text, and arrows between them."""

    def __init__(self) -> None:
        self.figure, self.axis = plt.subplots(figsize=(10, 6.2))
        self.axis.set(xlim=(0, 100), ylim=(-1, 60))
        self.axis.axis("off")

    def box(
        self, x: float, y: float, width: float, height: float, title: str, text: str = "", color: str = OURS
    ) -> None:
        corner = (x - width / 2, y - height / 2)
        style = "round,pad=0,rounding_size=1"
        look = {"boxstyle": style, "facecolor": color, "edgecolor": GREY, "linewidth": 0.8}
        self.axis.add_patch(FancyBboxPatch(corner, width, height, **look))
        lift = 0.8 * text.count("\n") + 1.1 if text else 0
        self.axis.text(x, y + lift, title, ha="center", va="center", fontsize=9, color=INK, weight="bold")
        if text:
            self.axis.text(x, y - 1.1, text, ha="center", va="center", fontsize=7.5, color=INK, linespacing=1.25)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
        look = {"arrowstyle": "-|>", "mutation_scale": 9, "color": GREY, "shrinkA": 0, "shrinkB": 0}
        self.axis.add_patch(FancyArrowPatch(start, end, linestyle="--" if dashed else "-", **look))

    def note(self, x: float, y: float, text: str) -> None:
        self.axis.text(x, y, text, ha="center", va="center", fontsize=7.5, color=GREY, style="italic")


PATHS = (
    ("product", "each factor by its own path"),
    ("fast", "closed form, recursion, ..."),
    ("splitting", "projections onto the parts"),
    ("active_set", "min-norm point, by argmax"),
    ("interior_point", "one batched solve, polished"),
    ("layer", "CvxpyLayer, refined"),
)


def main() -> None:
    plan = Plan()
    plan.box(12, 55, 22, 9, "declaration", "CVXPY variable, constraints,\nparameters", GIVEN)
    plan.box(38, 55, 22, 9, "Structure", "the set X: hull,\nargmax, log-partition")
    plan.box(12, 43.5, 22, 7, "library", "polytopes.KSubset, ...", GIVEN)
    plan.box(64, 55, 22, 9, "SoftArgmax", "checks the pair, chooses\na path, once")
    plan.box(88, 55, 20, 9, "regularizer", "f, strongly convex", GIVEN)
    plan.arrow((23, 55), (27, 55))
    plan.arrow((23, 44.5), (29, 50.5))
    plan.arrow((49, 55), (53, 55))
    plan.arrow((78, 55), (75, 55))

    plan.box(12, 24, 22, 9, "utilities", "u, temperature, mask,\nhull parameters", GIVEN)
    plan.box(36.5, 24, 17, 9, "Batch", "checked,\nflattened once")
    plan.arrow((23, 24), (28, 24))
    for i, (name, how) in enumerate(PATHS):
        y = 40.5 - 6.2 * i
        plan.box(62, y, 24, 5.4, name, how, PATH)
        plan.arrow((45, 24), (50, y))
        plan.arrow((74, y), (79, 24))
    plan.arrow((64, 50.5), (64, 43.4), dashed=True)
    plan.note(74, 47.5, "the first that applies")
    plan.box(88.5, 42, 19, 6, "SolveError", "names the elements", USE)
    plan.arrow((88.5, 28.5), (88.5, 39), dashed=True)
    plan.box(88.5, 24, 19, 9, "guard", "in the hull? converged?\ngradient possible?")
    plan.arrow((88.5, 19.5), (88.5, 16.5))
    plan.box(88.5, 13.5, 19, 6, "X_t(u)", "shape, dtype, device of u", USE)
    plan.arrow((88.5, 10.5), (88.5, 7.5))
    plan.box(88.5, 3.5, 19, 8, "estimator, loss", "or a network: whatever\ncomes behind", USE)

    plan.box(12, 8, 22, 8, "trick", "noise on u: StochasticSoftmax,\nStochasticArgmax", USE)
    plan.arrow((12, 12), (12, 19.5))
    plan.arrow((79, 1.8), (23.2, 5.5), dashed=True)
    plan.note(38, 2.6, "gradient: the implicit derivative of X_t")
    plan.figure.savefig(OUT, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
