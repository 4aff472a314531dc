"""A picture: a test sentence under several parsers, every arc as likely as it is wide, gold arcs in their own colour.

python -m examples.parsing.plot runs/parsing/arborescence-exponential-0 runs/parsing/arborescence-euclidean-0
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from examples.parsing.data import to_batch
from examples.parsing.train import Run, bank_of
from examples.parsing.treebank import Sentence
from examples.parsing.trees import marginals
from examples.pictures import draw_arc, save

_LEAST = 0.005  # probability of an arc that is drawn
_STYLES = {
    "gold arc": {"color": "C0"},
    "other arc": {"color": "C1"},
    "gold arc of probability 0": {"color": "black", "ls": ":"},
}


def choose(sentences: list[Sentence], number: int | None) -> int:
    """The test sentence of this number (from 0), or the first of 8 to 12 words with crossing arcs."""
    if number is not None:
        if number >= len(sentences):
            raise ValueError(f"--sentence must be below {len(sentences)}, the number of test sentences, got {number}.")
        return number
    fits = [i for i, s in enumerate(sentences) if 8 <= len(s) <= 12]
    return next((i for i in fits if not sentences[i].projective), fits[0] if fits else 0)


def draw_sentence(axis: plt.Axes, sentence: Sentence, x: torch.Tensor) -> None:
    """Arcs above the words, of width and opacity by their probability ``x`` ``(heads, dependents)``; they end
    in the middle of the dependent."""
    n = len(sentence)
    gold = {(h, d) for d, h in enumerate(sentence.heads, start=1)}
    likely = {(h, d): float(x[h, d]) for h in range(n + 1) for d in range(1, n + 1) if x[h, d] >= _LEAST}
    for h, d in sorted(likely.keys() | gold, key=lambda arc: likely.get(arc, 0.0)):
        p = likely.get((h, d), 0.0)
        style = "gold arc" if (h, d) in gold else "other arc"
        width, opacity = (0.5 + 3 * p, 0.15 + 0.85 * p) if p else (1.2, 1.0)
        style = _STYLES[style if p else "gold arc of probability 0"]
        start = h + (0.16 if h < d else -0.16)  # beside the head, and into the middle of the dependent
        draw_arc(axis, start, d, lw=width, alpha=opacity, **style)
    axis.set_xlim(-0.6, n + 0.6)
    axis.set_ylim(-0.1, 1.05 * max(abs(h - d) for h, d in likely.keys() | gold) ** 0.8)
    axis.set_xticks(range(n + 1), ["root", *sentence.words], rotation=35, ha="right", fontsize=9)
    axis.set_yticks([])
    axis.spines[["top", "left", "right"]].set_visible(False)


def draw(folders: list[Path], out: Path, number: int | None = None) -> None:
    columns = min(2, len(folders))
    rows = -(-len(folders) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7 * columns, 3.4 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(folders) :]:
        axis.set_visible(False)
    for axis, folder in zip(axes.flat, folders, strict=False):
        run = Run.best_of(folder)
        settings = run.settings
        test = bank_of(settings).test
        sentence = test[choose(test, number)]
        batch = to_batch([sentence], run.known)
        with torch.no_grad():
            scores, _ = run.model(batch)
        draw_sentence(axis, sentence, marginals(settings.trees, settings.regularizer, scores, batch.lengths)[0])
        axis.set_title(f"{settings.trees}, {settings.regularizer}", fontsize=10)
    save(figure, _STYLES, out, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="runs with a parser")
    parser.add_argument("--sentence", type=command_line.whole(0), metavar="NUMBER", help="of the test part, from 0")
    command_line.add_output(parser, Path("runs/parsing.png"))
    options = parser.parse_args(arguments)
    try:
        draw(options.folders, options.output, options.sentence)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"Picture: {options.output}")


if __name__ == "__main__":
    main()
