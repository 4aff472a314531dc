"""A picture: a test expression, its true tree, and how likely every edge is under several models.

python -m examples.listops.plot runs/listops/{arborescence-gumbel,tree,independent}-0 --output listops.png
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from examples.listops.data import CLOSE, WORDS, Part, text
from examples.listops.edges import LATENT
from examples.listops.train import Run, parts_of
from examples.pictures import draw_arc, save

_SAMPLES = 1000
_LEAST = 0.02  # probability of an edge that is drawn
_STYLES = {
    "true edge": {"color": "C0"},
    "other edge": {"color": "C1"},
    "edge of a closing bracket": {"color": "0.6"},
    "true edge, under 2 %": {"color": "black", "ls": ":"},
}


def choose(part: Part, number: int | None) -> Part:
    """The test expression of this number (from 0), or the first of the greatest depth and 14 to 18 tokens."""
    if number is None:
        fits = (part.depths == part.depths.max()) & (part.lengths >= 14) & (part.lengths <= 18)
        number = int(fits.int().argmax())
    if number >= len(part):
        raise ValueError(f"--expression must be below {len(part)}, the number of test expressions, got {number}.")
    rows = torch.tensor([number])
    return part.take(rows, int(part.lengths[number]), int(part.counts[number]))


@torch.no_grad()
def marginals(run: Run, one: Part) -> torch.Tensor:
    """How often edges ``(parents, children)`` are in a hard sample; undirected ones both ways."""
    many = one.take(torch.zeros(_SAMPLES, dtype=torch.long), one.tokens.shape[1], one.vertices.shape[1])
    generator = torch.Generator().manual_seed(0)
    return run.model.sample(many, run.settings.temperature, hard=True, generator=generator).mean(0)


def draw_edges(axis: plt.Axes, one: Part, x: torch.Tensor, undirected: bool = False) -> None:
    """Edges as wide as they are likely: above the tokens where the parent stands left of the child, else below."""
    tokens, n = one.vertex_tokens[0].tolist(), one.vertices.shape[1]
    truth = {(int(i), int(j)) for i, j in one.true_edges[0].nonzero()}
    likely = {(i, j): float(x[i, j]) for i in range(n) for j in range(n) if x[i, j] >= _LEAST}
    if undirected:
        likely = {(i, j): p for (i, j), p in likely.items() if i < j}
    for i, j in sorted(likely.keys() | truth, key=lambda edge: likely.get(edge, 0.0)):
        p = likely.get((i, j), 0.0)
        name = "true edge" if (i, j) in truth else "other edge"
        name = "edge of a closing bracket" if CLOSE in (tokens[i], tokens[j]) else name
        style, width, opacity = _STYLES[name], 0.4 + 3 * p, 0.15 + 0.85 * p
        if not p and name != "true edge":
            continue
        if not p:
            style, width, opacity = _STYLES["true edge, under 2 %"], 1.2, 1.0
        draw_arc(axis, i, j, below=i > j, lw=width, alpha=opacity, **style)
    axis.set_xlim(-0.6, n - 0.4)
    below = max((i - j for i, j in likely if i > j), default=0) ** 0.8
    axis.set_ylim(-1.05 * below - 0.1, 1.05 * max(abs(i - j) for i, j in likely.keys() | truth) ** 0.8)
    axis.set_xticks(range(n), [WORDS[t] for t in tokens], fontsize=9)
    axis.axhline(0, color="0.85", lw=0.8, zorder=0)
    axis.set_yticks([])
    axis.spines[["top", "left", "right"]].set_visible(False)


def draw(folders: list[Path], out: Path, number: int | None = None) -> None:
    made = [Run.best_of(folder) for folder in folders]
    for run, folder in zip(made, folders, strict=True):
        if run.settings.edges not in LATENT:
            raise ValueError(f"{folder} has no latent edges.")
    one = choose(parts_of(made[0].settings)[2], number)
    columns = 2
    rows = -(-(1 + len(made)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.4 * columns, 2.6 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[1 + len(made) :]:
        axis.set_visible(False)
    draw_edges(axes.flat[0], one, one.true_edges[0].float())
    axes.flat[0].set_title(f"{text(one.tokens[0])} = {int(one.answers)}, the true tree", fontsize=10)
    for axis, run in zip(axes.flat[1:], made, strict=False):
        draw_edges(axis, one, marginals(run, one), run.settings.edges == "tree")
        axis.set_title(run.name(run.settings), fontsize=10)
    brackets = bool((one.vertex_tokens == CLOSE).any())
    shown = {name: style for name, style in _STYLES.items() if brackets or "bracket" not in name}
    save(figure, shown, out, dpi=80)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="runs with latent edges, of one preset")
    parser.add_argument("--expression", type=command_line.whole(0), metavar="NUMBER", help="of the test part, from 0")
    command_line.add_output(parser, Path("runs/listops.png"))
    options = parser.parse_args(arguments)
    try:
        draw(options.folders, options.output, options.expression)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"Picture: {options.output}")


if __name__ == "__main__":
    main()
