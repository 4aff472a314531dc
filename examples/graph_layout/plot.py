"""Pictures of runs: training curves, and true beside inferred trees over a layout.

python -m examples.graph_layout.plot runs/tree-0 runs/top-0 --out picture.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import torch

from examples.graph_layout import data
from examples.graph_layout.edges import FORWARD, EdgeDistribution
from examples.graph_layout.model import Model

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_I, _J = torch.triu_indices(data.VERTICES, data.VERTICES, 1)


def label(folder: Path) -> str:
    """What a finished run is, in words."""
    settings = json.loads((folder / "test.json").read_text())
    return f"{settings['edges']}, seed {settings['seed']}"


def load(folder: Path) -> tuple[dict, Model]:
    """Settings and metrics of a finished run, and its best model."""
    settings = json.loads((folder / "test.json").read_text())
    edges = EdgeDistribution(settings["edges"], settings["regularizer"])
    model = Model(settings["frames"], settings["hidden"], edges, min(settings["frames"] - 1, 10))
    model.load_state_dict(torch.load(folder / "best.pt", map_location="cpu", weights_only=True))
    return settings, model.eval()


@torch.no_grad()
def infer(model: Model, part: data.Part) -> torch.Tensor:
    """Hard samples of the undirected edges, ``(count, 45)``; of both edge types the one that fits the truth better."""
    _, _, edges = model(part.positions, 1.0, hard=True, roll_out=1, generator=torch.Generator().manual_seed(0))
    chosen = edges[:, FORWARD]
    return chosen if (chosen * part.edges).sum() / chosen.sum() > 0.2 else 1 - chosen


def draw_graph(axis: plt.Axes, positions: torch.Tensor, edges: torch.Tensor, truth: torch.Tensor) -> None:
    """Last frame; right edges black, wrong ones red, missing ones dotted."""
    for e in torch.nonzero(edges + truth).flatten().tolist():
        style = (
            {"color": "black"}
            if edges[e] and truth[e]
            else {"color": "C3"}
            if edges[e]
            else {"color": "grey", "ls": ":"}
        )
        ends = positions[[_I[e], _J[e]], -1]
        axis.plot(ends[:, 0], ends[:, 1], lw=1.5, **style)
    axis.plot(*positions[:, -1].T, "o", color="C0", ms=6)
    axis.set_xticks([])
    axis.set_yticks([])


def draw(folders: list[Path], out: Path, examples: int = 3) -> None:
    figure, axes = plt.subplots(2, examples, figsize=(12, 7), layout="constrained")
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, key in ((axes[0, 0], "valid elbo"), (axes[0, 1], "valid precision")):
        axis.set_visible(True)
        for folder in folders:
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            axis.plot([line["step"] for line in lines], [line[key] for line in lines], label=label(folder))
        axis.set_xlabel("step")
        axis.set_title({"valid elbo": "validation ELBO", "valid precision": "edge precision, %"}[key])
    axes[0, 0].legend()
    settings, model = load(folders[0])
    _, _, test = data.make((settings["sizes"][0], 10, 50), settings["frames"])
    edges = infer(model, test)
    for axis, positions, found, truth in zip(axes[1], test.positions[:examples], edges, test.edges, strict=False):
        axis.set_visible(True)
        draw_graph(axis, positions, found, truth)
        axis.set_title(
            f"{label(folders[0])}: {int((found * truth).sum())} of {data.VERTICES - 1} edges right", fontsize=10
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="finished runs; the first one's trees are drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/graph_layout.png"))
    options = parser.parse_args()
    draw(options.folders, options.out)
    print(f"Picture: {options.out}")


if __name__ == "__main__":
    main()
