"""Trains the three distributions over edges, by several seeds, and prints their table; goes on where it stopped.

python -m examples.graph_layout.table --seeds 0 1 2
python -m examples.graph_layout.table --rows tree --seeds $(seq 0 19)
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
from collections.abc import Iterable
from typing import Any

from examples import tables
from examples.graph_layout.edges import NAMES
from examples.graph_layout.train import Run

METRICS = ("elbo", "precision", "recall")
#: Recall minus precision, percent, from which a structured run is of the wrong edge type: X has 9 edges, and so equal
#: precision and recall; 1 - X has 36, and recalls four times what it hits.
APART = 1.0


def right(results: Iterable[dict[str, Any]], who: str = "") -> str:
    """How many structured runs have X for their better edge type, of how many.

    Args:
        who: "own " for the model that had no mirror yet, "mirror " for its rival, when they were judged.
    """
    apart = [r[f"{who}recall"] - r[f"{who}precision"] for r in results if f"{who}recall" in r]
    return f"{sum(a < APART for a in apart)} of {len(apart)}" if apart else ""


def markdown(results: tables.Results) -> str:
    head = ["edges", "ELBO", "precision, %", "recall, %", "of the right edge type", "without the mirror, at its trial"]
    rows = []
    for name, found in results.items():
        shares = ["", ""] if name == "independent" else [right(found), right(found, "own ")]
        rows.append([name, *(tables.cell([r[m] for r in found]) for m in METRICS), *shares])
    return tables.lines(head, rows)


def main(arguments: list[str] | None = None) -> None:
    tables.main(Run, __doc__, {name: {"edges": name} for name in NAMES}, markdown, "runs/layout", arguments)


if __name__ == "__main__":
    main()
