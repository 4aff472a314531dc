"""A picture: MSE against precision, a panel a table; a small mark a seed, a large one the mean.

python -m examples.learning_to_explain.plot runs/side-effects runs/snippets --output tables.png
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import statistics
from pathlib import Path

import matplotlib

from examples import runs
from examples.learning_to_explain import relaxations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_MARKS = "osD^vPX*<>"
_COLOURS = {"correlated": "C0", "segments": "C1", relaxations.LABELS: "black"}
_ROWS = (*relaxations.NAMES, relaxations.LABELS)


def draw(folders: list[Path], out: Path) -> None:
    """Structured rows in colour, the others in grey, the ceiling in black.

    Raises:
        ValueError: a folder holds no result.
    """
    figure, axes = plt.subplots(1, len(folders), figsize=(5.2 * len(folders), 4), layout="constrained", squeeze=False)
    for axis, folder in zip(axes.flat, folders, strict=True):
        found = [runs.read_json(file) for file in sorted(folder.glob("*/result.json"))]
        if not found:
            raise ValueError(f"{folder} holds no finished run: table.py makes them.")
        for number, name in enumerate(_ROWS):
            points = [(row["MSE"], row["precision"]) for row in found if row["relaxation"] == name]
            if not points:
                continue
            colour = {"correlated": "C0", "segments": "C1", relaxations.LABELS: "black"}.get(
                name, f"{0.3 + number / 15}"
            )
            style = {"color": colour, "marker": _MARKS[number], "linestyle": "none"}
            axis.plot(*zip(*points, strict=True), markersize=4, alpha=0.45, **style)
            mean = [statistics.mean(values) for values in zip(*points, strict=True)]
            axis.plot(*mean, markersize=10, label=name, markeredgecolor="white", **style)
        axis.axhline(found[0]["random precision"], color="0.7", lw=1, ls=":")
        first = found[0]
        axis.set_title(f"{first['source']}, {first['aspect']}, k = {first['k']} (dotted: random words)", fontsize=10)
        axis.set_xlabel("test MSE x 100")
        axis.set_ylabel("precision %")
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of tables")
    command_line.add_output(parser, Path("runs/explain.png"))
    options = parser.parse_args(arguments)
    try:
        draw(options.folders, options.output)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"Picture: {options.output}")


if __name__ == "__main__":
    main()
