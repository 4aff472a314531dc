"""All parsers by all seeds: trains what is missing, for as long as allowed, and writes the Markdown tables.

python -m examples.parsing.table                                  # goes on where it was stopped
python -m examples.parsing.table --write examples/parsing/RESULTS.md
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
from typing import Any

from examples import tables
from examples.parsing.train import Run
from examples.parsing.trees import DECODERS
from examples.tables import Results, cell, lines

#: What is trained through, the most wanted first; "only" leaves sentences with crossing arcs out, as projective
#: trees do.
ROWS: dict[str, dict[str, Any]] = {
    "arborescence-exponential": {},
    "projective-exponential": {"trees": "projective"},
    "arborescence-euclidean": {"regularizer": "euclidean"},
    "projective-euclidean": {"trees": "projective", "regularizer": "euclidean"},
    "heads-exponential": {"trees": "heads"},
    "arborescence-exponential-only": {"projective_only": 1},
}


def markdown(found: Results) -> str:
    """Means and standard deviations over seeds, all from the runs' files."""
    counts = {row: len(values) for row, values in found.items()}
    seeds = f"Seeds by row: {', '.join(f'{row} {count}' for row, count in counts.items())}."
    return "\n\n".join(
        [
            "UAS / LAS % by decoder, all test sentences:", _by_decoder(found, ""),
            "Of the sentences with crossing arcs alone:", _by_decoder(found, " non-projective"),
            "Of the words alone whose gold arc crosses another one, which no projective tree has all of:",
            _by_decoder(found, " crossing"),
            "Arborescence decoder less projective decoder, UAS:", _difference(found),
            "Trees, sets and seconds:", _sets(found), seeds,
        ]
    )  # fmt: skip


def _by_decoder(found: Results, group: str) -> str:
    def scores(values: list[dict[str, Any]], decoder: str) -> str:
        return " / ".join(cell([v[f"{decoder} {m}{group}"] for v in values]) for m in ("UAS", "LAS"))

    rows = ([row, *(scores(values, decoder) for decoder in DECODERS)] for row, values in found.items())
    return lines(["trained through", *DECODERS], rows)


def _difference(found: Results) -> str:
    groups = ("", " projective", " non-projective", " crossing")

    def gain(values: list[dict[str, Any]], group: str) -> str:
        return cell([v[f"arborescence UAS{group}"] - v[f"projective UAS{group}"] for v in values], 2)

    rows = ([row, *(gain(values, group) for group in groups)] for row, values in found.items())
    return lines(["trained through", *(group.strip() or "all" for group in groups)], rows)


def _sets(found: Results) -> str:
    columns = {
        "greedy heads are a tree, %": "greedy trees",
        "arcs a word": "arcs a word",
        "gold arcs among them, %": "gold arcs",
        "gold tree in the set, %": "gold trees",
        "a single tree, %": "single trees",
        "s an epoch": "seconds",
        "in the loss of arcs": "seconds in loss",
    }
    rows = ([row, *(cell([v[k] for v in values if k in v]) for k in columns.values())] for row, values in found.items())
    return lines(["trained through", *columns], rows)


def main(arguments: list[str] | None = None) -> None:
    tables.main(Run, __doc__, ROWS, markdown, "runs/parsing", arguments)


if __name__ == "__main__":
    main()
