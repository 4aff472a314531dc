"""Sums over trees at every scale, best trees against networkx, graphs of every kind."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.tree_sum import log_tree_sum

_SPARSE = torch.tensor([[0, 0, 1, 2, 3, 1, 3, 2, 4, 5, 3], [1, 2, 3, 3, 1, 2, 0, 1, 5, 4, 5]])
LISTED = [
    polytopes.SpanningTree(6),
    polytopes.Arborescence(6, root=2),
    polytopes.Arborescence(5, root=None),
    polytopes.Arborescence(5, single_root=True),
    polytopes.Arborescence(_SPARSE, single_root=True),
    polytopes.Arborescence(_SPARSE),
    polytopes.Arborescence(_SPARSE, root=None),
]


def marginals(structure, u):
    return sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("structure", LISTED, ids=str)
def test_sums_and_marginals_against_enumeration(structure, scale):
    vertices = structure.vertices()
    generator = torch.Generator().manual_seed(int(scale))
    u = scale * torch.randn(20, *structure.event_shape, dtype=torch.float64, generator=generator)
    scores = u @ vertices.T
    torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(1), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(marginals(structure, u), scores.softmax(1) @ vertices, rtol=0, atol=1e-10)
    single = u.float()
    exact = (single.double() @ vertices.T).softmax(1) @ vertices
    torch.testing.assert_close(marginals(structure, single).double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", ["undirected", "directed", "single root"])
def test_edges_of_large_trees_in_float32(kind, scale):
    n = 20
    if kind == "undirected":
        structure = polytopes.SpanningTree(n)
    else:
        structure = polytopes.Arborescence(n, single_root=kind == "single root")
    u = scale * torch.randn(8, *structure.event_shape, generator=torch.Generator().manual_seed(0))
    x = marginals(structure, u)
    torch.testing.assert_close(x.sum(1), torch.full((8,), n - 1.0), rtol=0, atol=1e-4)
    assert float(x.min()) >= -1e-6
    assert float(x.max()) <= 1 + 1e-6
    if kind != "undirected":
        into = x.new_zeros(8, n).index_add(1, structure.edge_index[1], x)[:, 1:]
        torch.testing.assert_close(into, torch.ones_like(into), rtol=0, atol=1e-5)
    if kind == "single root":
        leaving = x[:, structure.edge_index[0] == 0].sum(1)
        torch.testing.assert_close(leaving, torch.ones_like(leaving), rtol=0, atol=1e-5)


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_both_algorithms_have_both_derivatives(scale, single_root):
    w = scale * torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    w.requires_grad_()
    torch.autograd.gradcheck(lambda v: log_tree_sum(v, single_root), w)
    torch.autograd.gradgradcheck(lambda v: log_tree_sum(v, single_root), w)


@pytest.mark.parametrize("ties", [False, True])
def test_best_tree_against_networkx(ties):
    generator = torch.Generator().manual_seed(5)
    for n in (2, 5, 9):
        structure = polytopes.SpanningTree(n)
        u = torch.randn(170, *structure.event_shape, dtype=torch.float64, generator=generator)
        u = u.mul(1.5).round() if ties else u
        values = (structure.argmax(u) * u).sum(1)
        for weights, value in zip(u.tolist(), values.tolist(), strict=True):
            graph = nx.Graph()
            edges = zip(*structure.edge_index.tolist(), weights, strict=True)
            graph.add_weighted_edges_from(edges)
            assert value == pytest.approx(nx.maximum_spanning_tree(graph).size("weight"), abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("root", [0, None])
@pytest.mark.parametrize("graph", [2, 4, 8, _SPARSE], ids=["2", "4", "8", "sparse"])
def test_best_arborescence_against_networkx(graph, root, ties):
    structure = polytopes.Arborescence(graph, root=root)
    generator = torch.Generator().manual_seed(7)
    u = torch.randn(70, *structure.event_shape, dtype=torch.float64, generator=generator)
    u = u.mul(1.5).round() if ties else u
    x = structure.argmax(u)
    if structure.has_vertices() and structure.n < 8:
        assert bool((x[:, None] == structure.vertices()).all(-1).any(1).all())
    into_root = structure.edge_index[1] == root if root is not None else torch.zeros(u.shape[1], dtype=torch.bool)
    assert bool((x[:, into_root] == 0).all())
    for weights, value in zip(u.tolist(), (x * u).sum(1).tolist(), strict=True):
        graph = nx.DiGraph()
        edges = zip(*structure.edge_index.tolist(), weights, into_root.tolist(), strict=True)
        graph.add_weighted_edges_from((i, j, w) for i, j, w, dropped in edges if not dropped)
        assert value == pytest.approx(nx.maximum_spanning_arborescence(graph).size("weight"), abs=1e-9)


@pytest.mark.slow
def test_best_trees_of_many_sizes_against_networkx():
    generator = torch.Generator().manual_seed(11)
    for n in range(3, 23):
        structure = polytopes.Arborescence(n)
        u = torch.randn(50, *structure.event_shape, dtype=torch.float64, generator=generator)
        for weights, x in zip(u, structure.argmax(u), strict=True):
            graph = nx.DiGraph()
            graph.add_weighted_edges_from(zip(*structure.edge_index.tolist(), weights.tolist(), strict=True))
            assert float(weights @ x) == pytest.approx(nx.maximum_spanning_arborescence(graph).size("weight"), abs=1e-9)


@pytest.mark.parametrize("kind", ["undirected", "fixed root", "single root", "free root"])
@pytest.mark.parametrize("length", [5, 3, 2, 1])
def test_padded_graphs_are_small_graphs(kind, length):
    def build(n):
        if kind == "undirected":
            return polytopes.SpanningTree(n)
        return polytopes.Arborescence(n, root=None if kind == "free root" else 0, single_root=kind == "single root")

    padded = build(5)
    mask = padded.length_mask(torch.tensor([length]))
    u = torch.randn(3, *padded.event_shape, dtype=torch.float64)
    for regularizer in (sst.ExponentialFamilyEntropy(), sst.Euclidean()):
        x = sst.SoftArgmax(padded, regularizer)(u, 0.7, mask=mask)
        inside = mask[0]
        assert bool((x[:, ~inside] == 0).all())
        if length > 1:
            small = sst.SoftArgmax(build(length), regularizer)(u[:, inside], 0.7)
            torch.testing.assert_close(x[:, inside], small, rtol=0, atol=1e-8)


def test_graphs_without_arborescence_are_refused():
    with pytest.raises(ValueError, match="can be reached"):
        polytopes.Arborescence(torch.tensor([[0, 2], [1, 1]]))
    with pytest.raises(ValueError, match="single edge"):
        polytopes.Arborescence(torch.tensor([[0, 0], [1, 2]]), single_root=True)
    with pytest.raises(ValueError, match="once, without loops"):
        polytopes.Arborescence(torch.tensor([[0, 0], [1, 1]]))
    with pytest.raises(ValueError, match="fixed root"):
        polytopes.Arborescence(3, root=None, single_root=True)
    with pytest.raises(ValueError, match="root must be"):
        polytopes.Arborescence(3, root=3)
