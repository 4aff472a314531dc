"""Every relaxation by every seed: trains what is missing, for as long as allowed, and writes the Markdown tables.

python -m examples.learning_to_explain.table --preset druglib --path druglib.tsv --folder runs/side-effects
"""

from __future__ import annotations

from examples import command_line  # noqa: F401, first: Ctrl-C ends quietly from here on

# isort: split
import random
import statistics
from collections.abc import Sequence
from typing import Any

from examples import tables
from examples.learning_to_explain import relaxations
from examples.learning_to_explain.train import Run
from examples.tables import Results, cell, lines

#: The most wanted first.
ROWS: dict[str, dict[str, Any]] = {
    name: {"relaxation": name}
    for name in (
        *("correlated", "exponential", "segments", "l2x", "softsub", "binary", "categorical", "euclidean"),
        *(relaxations.LABELS, *relaxations.FLOORS),
    )
}
_SHOWN = (*relaxations.FLOORS, *relaxations.NAMES, relaxations.LABELS)


def markdown(found: Results) -> str:
    """Means over seeds and the seed that validation selects; masks decoded with segments; random masks."""
    rows = {name: found[name] for name in _SHOWN if name in found}
    plain = [[name, *_summary(values)] for name, values in rows.items()]
    head = ["", "mean MSE", "precision %", "selected MSE", "precision %", "segments", "best step", "seeds"]
    again = {name: values for name, values in rows.items() if "decoded MSE" in values[0]}
    return "\n\n".join(
        [
            "Mean ± standard deviation over seeds, and the seed with the best validation MSE:",
            lines(head, plain),
            "Decoded with at most two segments, regressor as trained and trained on; the best window's precision:",
            lines(
                ["", "MSE", "refitted MSE", "precision %", "window %"], [[n, *_decoded(v)] for n, v in again.items()]
            ),
            "Random masks at test time:",
            lines(["", "MSE", "precision %"], [[n, *_sampled(v)] for n, v in rows.items() if n in relaxations.NAMES]),
        ]
    )


def _summary(values: list[dict[str, Any]]) -> list[str]:
    mse, hits = selected(values)
    counted = [cell([v["segments"] for v in values]), cell([v["best step"] for v in values], 0), str(len(values))]
    return [cell(_all(values, "MSE"), 2), cell(_all(values, "precision")), mse, hits, *counted]


def _decoded(values: list[dict[str, Any]]) -> list[str]:
    errors = [cell(_all(values, name), 2) for name in ("decoded MSE", "refitted MSE")]
    return [*errors, *(cell(_all(values, name)) for name in ("decoded precision", "window precision"))]


def _sampled(values: list[dict[str, Any]]) -> list[str]:
    return [cell(_all(values, "sampled MSE"), 2), cell(_all(values, "sampled precision"))]


def _all(values: list[dict[str, Any]], name: str) -> list[float]:
    return [v[name] for v in values]


def selected(values: Sequence[dict[str, Any]], draws: int = 1000) -> tuple[str, str]:
    """MSE and precision of the seed with the best validation MSE; standard errors bootstrapped over this selection."""
    rng = random.Random(0)
    best = min(values, key=lambda v: v["valid MSE"])
    again = [min(rng.choices(values, k=len(values)), key=lambda v: v["valid MSE"]) for _ in range(draws)]
    errors = [f" ± {statistics.stdev(v[n] for v in again):.{d}f}" for n, d in (("MSE", 2), ("precision", 1))]
    mse, hits = f"{best['MSE']:.2f}", f"{best['precision']:.1f}"
    return (mse, hits) if len(values) == 1 else (mse + errors[0], hits + errors[1])


def main(arguments: list[str] | None = None) -> None:
    tables.main(Run, __doc__, ROWS, markdown, "runs/explain-table", arguments)


if __name__ == "__main__":
    main()
