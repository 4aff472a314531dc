"""For docs/guide/pictures.md and docs/choose/regularizer.md: sst.plot's pictures.

python docs/pictures/plots.py
"""

import matplotlib.pyplot as plt
import style
import torch

import polytopes
import sst_cvx as sst

REGULARIZERS = (sst.Euclidean(), sst.TsallisEntropy(1.5), sst.CategoricalEntropy(), sst.BinaryEntropy())
MARGINALS = sst.ExponentialFamilyEntropy()


def paths() -> None:
    """Four regularizers on a triangle, and on the octahedron of the 2-subsets of 4."""
    figure = plt.figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    for f in REGULARIZERS:
        sst.plot.path(sst.SoftArgmax(polytopes.OneHot(3), f), torch.tensor([1.0, 0.8, -0.5]), left)
        sst.plot.path(sst.SoftArgmax(polytopes.KSubset(4, 2), f), torch.tensor([1.0, 0.8, 0.6, -0.6]), right)
    for ax, name in ((left, "OneHot(3)"), (right, "KSubset(4, 2)")):
        ax.get_legend().remove()
        ax.set_title(name)
    right.view_init(18, -62)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    style.save(figure, "plot_paths")


def events() -> None:
    torch.manual_seed(5)
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), layout="constrained")
    tree = polytopes.SpanningTree(7)
    sst.plot.event(tree, sst.SoftArgmax(tree, MARGINALS)(torch.randn(21), 0.5), axes[0])
    sentence = polytopes.Arborescence(5)
    u = torch.randn(sentence.event_shape)
    sst.plot.event(sentence, sst.SoftArgmax(sentence, MARGINALS)(u, 0.4), axes[1], names="*abcd")
    rows = polytopes.Matching(6)
    sst.plot.event(rows, sst.SoftArgmax(rows, MARGINALS)(torch.randn(6, 6), 0.4), axes[2])
    times = torch.linspace(0, 6, 24)
    cost = (times.sin()[:, None] - (times**1.6 / 6**0.6).sin()).square()
    alignment = polytopes.Alignment(24, 24, "warping")
    sst.plot.event(alignment, sst.SoftArgmax(alignment, MARGINALS)(-cost, 0.1), axes[3])
    for ax, name in zip(axes, ("SpanningTree(7)", "Arborescence(5)", "Matching(6)", "Alignment(24, 24)"), strict=True):
        ax.set_title(name)
    style.save(figure, "plot_events")


if __name__ == "__main__":
    paths()
    events()
