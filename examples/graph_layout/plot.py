"""Pictures of runs: training curves, and true beside inferred trees over a layout.

python -m examples.graph_layout.plot runs/tree-0 runs/top-0 --output picture.png
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
from pathlib import Path

import matplotlib
import torch

from examples import runs
from examples.graph_layout import data
from examples.graph_layout.edges import FORWARD
from examples.graph_layout.model import Model
from examples.graph_layout.train import Run, Settings

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

_STYLES = {"right": {"color": "black"}, "wrong": {"color": "C3"}, "missing": {"color": "grey", "ls": ":"}}
_I, _J = torch.triu_indices(data.VERTICES, data.VERTICES, 1)


def label(s: Settings) -> str:
    """What a run is, in words."""
    relaxed = "" if s.regularizer == "exponential" else f", {s.regularizer}"
    return f"{s.edges}{relaxed}, lr {s.learning_rate:g}, t {s.temperature:g}, seed {s.seed}"


@torch.no_grad()
def infer(model: Model, part: data.Part) -> tuple[torch.Tensor, str]:
    """Hard samples of the undirected edges, ``(count, 45)``, of the edge type with the higher precision; its name."""
    _, _, edges = model(part.positions, 1.0, hard=True, roll_out=1, generator=torch.Generator().manual_seed(0))
    chosen = edges[:, FORWARD]
    types = {"X": chosen, "1 - X": 1 - chosen}
    name = max(types, key=lambda n: float(((types[n] * part.edges).sum(1) / types[n].sum(1).clamp(min=1)).mean()))
    return types[name], name


def draw_graph(axis: plt.Axes, positions: torch.Tensor, edges: torch.Tensor, truth: torch.Tensor) -> None:
    """Last frame, edges in the styles of ``_STYLES``."""
    for e in torch.nonzero(edges + truth).flatten().tolist():
        style = _STYLES["right" if edges[e] and truth[e] else "wrong" if edges[e] else "missing"]
        ends = positions[[_I[e], _J[e]], -1]
        axis.plot(ends[:, 0], ends[:, 1], lw=1.5, **style)
    axis.plot(*positions[:, -1].T, "o", color="C0", ms=6)
    axis.set_xticks([])
    axis.set_yticks([])


def draw(folders: list[Path], out: Path) -> None:
    found = [Run.best_of(folder) for folder in folders]
    examples, labels = 3, [label(run.settings) for run in found]
    figure, axes = plt.subplots(2, examples, figsize=(12, 7), layout="constrained")
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, key in ((axes[0, 0], "valid elbo"), (axes[0, 1], "valid precision")):
        axis.set_visible(True)
        for folder, name in zip(folders, labels, strict=True):
            lines = runs.read_lines(folder / "metrics.jsonl")
            axis.plot([line["step"] for line in lines], [line[key] for line in lines], label=name)
        axis.set_xlabel("step")
        axis.set_title({"valid elbo": "validation ELBO", "valid precision": "edge precision, %"}[key])
    axes[0, 0].legend()
    styles = [Line2D([], [], label=f"{name} edge", **style) for name, style in _STYLES.items()]
    axes[0, 2].set_visible(True)
    axes[0, 2].axis("off")
    axes[0, 2].legend(handles=styles, loc="lower center", title=f"below: {labels[0]}")
    test = found[0].parts[2]
    edges, edge_type = infer(found[0].model, data.Part(test.edges[:50], test.positions[:50]))
    for axis, positions, found, truth in zip(axes[1], test.positions[:examples], edges, test.edges, strict=False):
        axis.set_visible(True)
        draw_graph(axis, positions, found, truth)
        hits, named = int((found * truth).sum()), int(found.sum())
        axis.set_title(f"{edge_type} names {named} edges, {hits} of the {data.VERTICES - 1} true ones", fontsize=10)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="runs; the first one's trees are drawn")
    command_line.add_output(parser, Path("runs/graph_layout.png"))
    options = parser.parse_args(arguments)
    try:
        draw(options.folders, options.output)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(f"Picture: {options.output}")


if __name__ == "__main__":
    main()
