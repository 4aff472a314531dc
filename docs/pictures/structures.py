"""For docs/choose/structure.md and docs/guide/declare.md: events of six structures, and a hull looser than its set."""

import cvxpy as cp
import matplotlib.pyplot as plt
import style
import torch
from matplotlib.colors import LinearSegmentedColormap

import polytopes
import sst_cvx as sst

MARGINALS = sst.ExponentialFamilyEntropy()


def heat(ax: plt.Axes, x: torch.Tensor) -> None:
    blue = LinearSegmentedColormap.from_list("", [f"{style.COLOURS[0]}00", style.COLOURS[0]])
    ax.imshow(x, cmap=blue, vmin=0, vmax=1, aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(True)


def bars(ax: plt.Axes, x: torch.Tensor) -> None:
    ax.bar(range(len(x)), x, color=style.COLOURS[0])
    ax.set(ylim=(0, 1), xticks=[], yticks=[0, 1])
    ax.set_box_aspect(1)


def events() -> None:
    torch.manual_seed(4)
    figure, axes = plt.subplots(1, 6, figsize=(10, 2.1), layout="constrained")
    bars(axes[0], sst.SoftArgmax(polytopes.KSubset(8, 2), MARGINALS)(torch.randn(8), 0.3))
    hill = torch.tensor([-1.0, -0.6, 0.4, 0.9, 0.7, 0.3, -0.5, -1.0])
    bars(axes[1], sst.SoftArgmax(polytopes.Segment(8), MARGINALS)(hill, 0.4))
    heat(axes[2], sst.SoftArgmax(polytopes.Matching(6), MARGINALS)(torch.randn(6, 6), 0.4))
    chain = polytopes.Chain(8, 4)
    u = chain.scores(1.5 * torch.randn(8, 4), torch.eye(4))
    heat(axes[3], chain.labels(sst.SoftArgmax(chain, MARGINALS)(u, 0.7)).T)
    a, b = torch.linspace(0, 6, 16).sin(), (torch.linspace(0, 1, 16) ** 1.6 * 6).sin()
    cost = (a[:, None] - b).square()
    heat(axes[4], sst.SoftArgmax(polytopes.Alignment(16, 16, "warping"), MARGINALS)(-cost, 0.1))
    places, tree = torch.rand(9, 2), polytopes.SpanningTree(9)
    ends = places[tree.edge_index]
    x = sst.SoftArgmax(tree, MARGINALS)(-(ends[0] - ends[1]).norm(dim=-1), 0.06)
    for (p, q), weight in zip(ends.transpose(0, 1), x.tolist(), strict=True):
        axes[5].plot(*torch.stack([p, q]).T, color=style.COLOURS[0], lw=3 * weight, alpha=min(1, 2 * weight))
    axes[5].plot(*places.T, "o", color=style.GREY, ms=4)
    axes[5].set_axis_off()
    axes[5].set_box_aspect(1)
    titles = [
        "KSubset(8, 2)",
        "Segment(8)",
        "Matching(6)",
        "Chain(8, 4).labels",
        "Alignment, warping",
        "SpanningTree(9)",
    ]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    style.save(figure, "structures")


def looser() -> None:
    """{ x, y in 0, 1 : not both }, once with 2 x + 2 y <= 3 and once with x + y <= 1."""
    x = cp.Variable(2)
    loose = sst.Structure(x, [x >= 0, x <= 1, 2 * cp.sum(x) <= 3], integral=False)
    figure, axes = plt.subplots(1, 2, figsize=(6, 2.7), sharey=True, layout="constrained")
    u, t = torch.tensor([1.0, 0.75]).double(), torch.logspace(1, -2, 61).double()
    for ax, path in zip(axes, ("interior_point", "active_set"), strict=True):
        way = sst.SoftArgmax(loose, sst.Euclidean(), path=path)(u.expand(61, 2), t)
        ax.fill([0, 1, 1, 0.5, 0], [0, 0, 0.5, 1, 1], color=style.GREY, alpha=0.2, lw=0)
        ax.fill([0, 1, 0], [0, 0, 1], color=style.COLOURS[0], alpha=0.3, lw=0)
        ax.plot([0, 1, 0], [0, 0, 1], "o", color=style.COLOURS[0], clip_on=False, zorder=3)
        ax.plot(*way.T, color=style.COLOURS[1], lw=2)
        ax.plot(*way[-1], "s", color=style.COLOURS[1], clip_on=False, zorder=4)
        ax.set(xlim=(0, 1.05), ylim=(0, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    axes[0].set_title("over the declared hull (default)")
    axes[1].set_title('over conv(X) (path="active_set")')
    style.save(figure, "integrality")


events()
looser()
