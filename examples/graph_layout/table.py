"""Trains the three distributions over edges, by several seeds, and prints their table; goes on where it stopped.

python -m examples.graph_layout.table --seeds 0 1 2
python -m examples.graph_layout.table --rows tree --seeds $(seq 0 19)
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
from examples import tables
from examples.graph_layout.edges import NAMES
from examples.graph_layout.train import Run

METRICS = ("elbo", "precision", "recall")
#: Recall minus precision, percent, from which a structured run is of the wrong edge type: X has 9 edges, and so equal
#: precision and recall; 1 - X has 36, and recalls four times what it hits.
APART = 1.0


def right(result: dict) -> bool:
    """Whether a structured run's better edge type is X itself."""
    return result["recall"] - result["precision"] < APART


def markdown(results: tables.Results) -> str:
    rows = []
    for name, found in results.items():
        share = "" if name == "independent" else f"{sum(map(right, found))} of {len(found)}"
        rows.append([name, *(tables.cell([r[m] for r in found]) for m in METRICS), share])
    return tables.lines(["edges", "ELBO", "precision, %", "recall, %", "of the right edge type"], rows)


def main(arguments: list[str] | None = None) -> None:
    tables.main(Run, __doc__, {name: {"edges": name} for name in NAMES}, markdown, "runs/layout", arguments)


if __name__ == "__main__":
    main()
