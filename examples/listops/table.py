"""All rows by all seeds: trains what is missing, for as long as allowed, and writes the Markdown tables.

python -m examples.listops.table                                  # goes on where it was stopped
python -m examples.listops.table --minutes 30 --write examples/listops/RESULTS.md
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
from typing import Any

from examples import tables
from examples.listops import data
from examples.listops.evaluate import floors
from examples.listops.train import Run
from examples.tables import Results, cell, lines

#: In the order of the paper's question: arborescences first.
ROWS: dict[str, dict[str, Any]] = {
    "arborescence-gumbel": {},
    "tree": {"edges": "tree"},
    "independent": {"edges": "independent"},
    "none": {"edges": "none"},
    "true": {"edges": "true"},
    "arborescence-gaussian": {"utilities": "gaussian"},
    "arborescence-exponential": {"utilities": "exponential"},
}
#: Accuracy, precision and recall of the paper (arXiv 2006.08063, section 5.2), in the order of its table.
PAPER = {
    "none": "92.1",
    "independent": "90.1 / 13.0 / 56.4",
    "tree": "91.2 / 33.1 / 47.9",
    "arborescence-exponential": "71.5 / 23.2 / 20.0",
    "arborescence-gaussian": "95.0 / 65.3 / 60.8",
    "arborescence-gumbel": "95.0 / 75.0 / 71.9",
    "true": "98.1",
}
NAMES = {
    "none": "LSTM, nothing latent",
    "independent": "independent directed edges",
    "tree": "undirected spanning tree",
    "arborescence-exponential": "arborescence, negative exponential",
    "arborescence-gaussian": "arborescence, Gaussian",
    "arborescence-gumbel": "arborescence, Gumbel",
    "true": "true edges",
}
_METRICS = ("accuracy", "precision", "recall")


def markdown(found: Results) -> str:
    """Means and standard deviations over seeds, all from the runs' files."""
    found = {row: found[row] for row in NAMES if row in found}
    seeds = ", ".join(f"{row} {len(values)}" for row, values in found.items())
    return "\n\n".join(
        [
            "Test part, along one hard sample of edges an expression, %:", _scores(found, ""),
            "Along the best edges without noise:", _scores(found, "best edges "),
            "By depth, along hard samples, accuracy / precision / recall:", _by_depth(found),
            "Edges of the test part without a model, precision / recall, all and by depth:", _floors(found),
            f"Seeds by row: {seeds}.",
        ]
    )  # fmt: skip


def _scores(found: Results, prefix: str) -> str:
    def known(values: list[dict[str, Any]], metric: str) -> str:
        return cell([v[prefix + metric] for v in values if prefix + metric in v])

    rows = []
    for row, values in found.items():
        cells = [known(values, metric) for metric in _METRICS]
        if any(cells):
            cells = [*cells[:1], *(["", ""] if row == "true" else cells[1:])]
            extra = [] if prefix else [cell([v["best epoch"] for v in values], 0), cell([v["seconds"] for v in values])]
            rows.append([NAMES[row], *cells, *([] if prefix else [PAPER[row]]), *extra])
    extra = [] if prefix else ["paper (its own data)", "best epoch", "CPU s an epoch"]
    return lines(["", "accuracy", "edge precision", "edge recall", *extra], rows)


def _floors(found: Results) -> str:
    one = next((v for values in found.values() for v in values), None)
    if one is None:
        return ""
    test = data.parts(*(one[k] for k in ("expressions", "held_out", "max_length", "max_depth", "brackets")))[2]
    depths = range(1, one["max_depth"] + 1)
    by_part = [floors(test), *(floors(test.of_depth(depth)) for depth in depths)]
    rows = ([name, *("{:.1f} / {:.1f}".format(*part[name]) for part in by_part)] for name in by_part[0])
    return lines(["", "all", *(f"depth {depth}" for depth in depths)], rows)


def _by_depth(found: Results) -> str:
    depths = range(1, 1 + max((v["max_depth"] for values in found.values() for v in values), default=0))

    def scores(row: str, values: list[dict[str, Any]], depth: int) -> str:
        metrics = _METRICS[:1] if row == "true" else _METRICS
        return " / ".join(
            cell([v[f"depth {depth} {m}"] for v in values]) for m in metrics if f"depth {depth} {m}" in values[0]
        )

    rows = ([NAMES[row], *(scores(row, values, depth) for depth in depths)] for row, values in found.items())
    return lines(["", *(f"depth {depth}" for depth in depths)], rows)


def main(arguments: list[str] | None = None) -> None:
    tables.main(Run, __doc__, ROWS, markdown, "runs/listops", arguments)


if __name__ == "__main__":
    main()
