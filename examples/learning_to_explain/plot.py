"""A picture: MSE against precision, a panel a table; a small mark a seed, a large one the mean.

Hollow marks: utilities of single words decoded with two segments, the regressor trained on.

python -m examples.learning_to_explain.plot runs/side-effects runs/snippets --output tables.png
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import statistics
from pathlib import Path

import matplotlib

from examples import tables
from examples.learning_to_explain import relaxations

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_MARKS = "osD^vPX*p<"
_COLOURS = {"correlated": "C0", "segments": "C1", relaxations.LABELS: "black"}
_ROWS = (*relaxations.NAMES, relaxations.LABELS)


def _read(folder: Path) -> tables.Results:
    """Results by row.

    Raises:
        ValueError: none.
    """
    found = tables.results(folder, [file.parent.name for file in sorted(folder.glob("*/result.json"))])
    if not found:
        raise ValueError(f"{folder} holds no finished run: table.py makes them.")
    return found


def _mean(values: list[dict], *names: str) -> list[float]:
    return [statistics.mean(v[name] for v in values) for name in names]


def draw(folders: list[Path], out: Path) -> None:
    """Structured rows in colour, the others in grey, the ceiling in black."""
    figure, axes = plt.subplots(1, len(folders), figsize=(5.2 * len(folders), 4), layout="constrained", squeeze=False)
    for axis, folder in zip(axes.flat, folders, strict=True):
        found = _read(folder)
        for number, name in enumerate(_ROWS):
            if not (values := found.get(name)):
                continue
            style = {
                "color": _COLOURS.get(name, f"{0.25 + number / 12}"),
                "marker": _MARKS[number],
                "linestyle": "none",
            }
            axis.plot([v["MSE"] for v in values], [v["precision"] for v in values], markersize=4, alpha=0.45, **style)
            axis.plot(*_mean(values, "MSE", "precision"), markersize=10, label=name, markeredgecolor="white", **style)
            if "refitted MSE" in values[0]:
                place = _mean(values, "refitted MSE", "decoded precision")
                axis.plot(*place, markersize=8, markerfacecolor="none", **style)
        first = next(iter(found.values()))[0]
        axis.axhline(first["random precision"], color="0.7", lw=1, ls=":")
        axis.set_title(f"{first['source']}, {first['aspect']}, k = {first['k']} (dotted: random words)", fontsize=10)
        axis.set_xlabel("test MSE x 100")
        axis.set_ylabel("precision %")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right center", frameon=False)
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
