"""For docs/choose/structure.md and docs/guide/declare.md: events of six structures, and a hull looser than its set."""

import cvxpy as cp
import matplotlib.pyplot as plt
import style
import torch

import polytopes
import sst_cvx as sst

MARGINALS = sst.ExponentialFamilyEntropy()


def events() -> None:
    torch.manual_seed(4)
    figure, axes = plt.subplots(1, 6, figsize=(10, 2.1), layout="constrained")
    hill = torch.tensor([-1.0, -0.6, 0.4, 0.9, 0.7, 0.3, -0.5, -1.0])
    chain = polytopes.Chain(8, 4)
    a, b = torch.linspace(0, 6, 16).sin(), (torch.linspace(0, 1, 16) ** 1.6 * 6).sin()
    places, tree = torch.rand(9, 2), polytopes.SpanningTree(9)
    lengths = places[tree.edge_index].diff(dim=0)[0].norm(dim=-1)
    asked = {
        "KSubset(8, 2)": (polytopes.KSubset(8, 2), torch.randn(8), 0.3),
        "Segment(8)": (polytopes.Segment(8), hill, 0.4),
        "Matching(6)": (polytopes.Matching(6), torch.randn(6, 6), 0.4),
        "Chain(8, 4)": (chain, chain.scores(1.5 * torch.randn(8, 4), torch.eye(4)), 0.7),
        "Alignment, warping": (polytopes.Alignment(16, 16, "warping"), -(a[:, None] - b).square(), 0.1),
        "SpanningTree(9)": (tree, -lengths, 0.06),
    }
    for ax, (title, (structure, u, t)) in zip(axes, asked.items(), strict=True):
        x = sst.SoftArgmax(structure, MARGINALS)(u, t)
        sst.plot.event(structure, x, ax, colorbar=False, positions=places if structure is tree else None)
        ax.set(title=title, xticks=[], yticks=[])
        ax.set_box_aspect(1)
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
