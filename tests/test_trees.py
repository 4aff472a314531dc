"""Sums over trees at every scale, best trees against networkx, graphs of every kind."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels import tree_sum
from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.tree_elimination import eliminated, eliminated_weights
from polytopes.kernels.tree_sum import log_tree_sum, tree_marginals

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


def _weights(scale, n, batch=3, seed=3):
    """As ``log_tree_sum`` hands them on: nothing on the diagonal or into the root."""
    w = scale * torch.randn(batch, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ignored = torch.eye(n, dtype=torch.bool)
    ignored[:, 0] = True
    return w.masked_fill(ignored, ABSENT), ~ignored


# All edges of the first vertex so much worse that each algorithm has its turn, and the derivatives are not trivial.
@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize(("worse", "algorithm"), [(0.0, "near"), (40.0, "middle"), (2000.0, "far")])
def test_all_algorithms_have_both_derivatives(worse, algorithm, single_root):
    w, _ = _weights(1.0, 4, batch=2)
    first = int(single_root)
    w[:, first, first + 1 :] -= worse
    near, far = tree_sum._ranges(tree_sum._scaled(w, single_root)[0], single_root)
    assert bool({"near": near, "middle": ~near & ~far, "far": far}[algorithm].all())
    w.requires_grad_()
    torch.autograd.gradcheck(lambda v: log_tree_sum(v, single_root), w)
    torch.autograd.gradgradcheck(lambda v: log_tree_sum(v, single_root), w)


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize(("scale", "n"), [(1.0, 3), (3.0, 7), (20.0, 12)])
def test_elimination_on_weights_is_elimination_on_logs(n, scale, single_root):
    """Value, gradient, and the gradient along V of the closed forms, against autograd of the log domain."""
    w, edges = _weights(scale, n)
    along = torch.randn(w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    w.requires_grad_()
    found = []
    for total in (eliminated_weights(w, single_root), eliminated(w, single_root)):
        (x,) = torch.autograd.grad(total.sum(), w, create_graph=True)
        (turned,) = torch.autograd.grad((x * along * edges).sum(), w, allow_unused=True)
        found.append([total.detach(), x.detach() * edges, torch.zeros_like(w) if turned is None else turned * edges])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("single_root", [False, True])
def test_elimination_on_weights_has_third_derivatives(single_root):
    w, edges = _weights(1.0, 4, batch=1)
    leaf = w[:, edges].requires_grad_()

    def marginal(v):
        total = eliminated_weights(w.masked_scatter(edges, v), single_root)
        return torch.autograd.grad(total.sum(), v, create_graph=True)[0]

    torch.autograd.gradcheck(marginal, leaf)
    torch.autograd.gradgradcheck(marginal, leaf)


@pytest.mark.parametrize("single_root", [False, True])
def test_one_batch_of_every_range_is_its_elements(single_root):
    scales = torch.tensor([1.0, 3000.0, 30.0, 1.0, 300.0, 10.0, 1e4], dtype=torch.float64)
    w = scales[:, None, None] * _weights(1.0, 9, batch=7)[0].clamp(min=-10)
    along = torch.randn(w.shape, dtype=torch.float64)

    def answers(part):
        part = part.clone().requires_grad_()
        total = log_tree_sum(part, single_root)
        (x,) = torch.autograd.grad(total.sum(), part, create_graph=True)
        (turned,) = torch.autograd.grad((x * along[: len(part)]).sum(), part)
        return total.detach(), x.detach(), turned

    expected = []
    for i in range(len(w)):
        repeated = w[i : i + 1].expand(len(w), -1, -1)
        expected.append([answer[i] for answer in answers(repeated)])
    for mine, others in zip(answers(w), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.stack(others), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1e4])
def test_marginals_are_the_gradient_of_the_log_sum(scale, single_root):
    """And their pullback its second derivative; vertices in any order, so that starts are exchanged."""
    w = scale * torch.randn(2, 5, 8, 8, dtype=torch.float64)
    w.requires_grad_()
    along = torch.randn_like(w)
    (expected,) = torch.autograd.grad(log_tree_sum(w, single_root).sum(), w, create_graph=True)
    found = tree_marginals(w, single_root)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    pullbacks = [torch.autograd.grad((x * along).sum(), w)[0] for x in (found, expected)]
    torch.testing.assert_close(*pullbacks, rtol=0, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(tree_marginals(w, single_root), found, rtol=0, atol=0)


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("worse", [0.0, 40.0, 2000.0])
def test_marginals_are_differentiable_twice(worse, single_root):
    w, edges = _weights(1.0, 4, batch=1)
    w[:, int(single_root), 2:] -= worse

    def marginal(v):
        return tree_marginals(w.masked_scatter(edges, v), single_root)

    leaf = w[:, edges].requires_grad_()
    torch.autograd.gradcheck(marginal, leaf)
    torch.autograd.gradgradcheck(marginal, leaf)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_long_paths_and_cycles(scale):
    """Far from the root by many edges: a path has one tree, and a cycle one for every edge left out."""
    n = 60
    line = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
    u = scale * torch.randn(4, n, dtype=torch.float64)
    path = polytopes.SpanningTree(line)
    torch.testing.assert_close(path.log_partition(u[:, 1:]), u[:, 1:].sum(1))
    torch.testing.assert_close(marginals(path, u[:, 1:]), torch.ones(4, n - 1, dtype=torch.float64))
    cycle = polytopes.SpanningTree(torch.cat([line, torch.tensor([[n - 1], [0]])], 1))
    torch.testing.assert_close(cycle.log_partition(u), u.sum(1) + (-u).logsumexp(1))
    torch.testing.assert_close(marginals(cycle, u), 1 - (-u).softmax(1), rtol=0, atol=1e-10)


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


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("graph", [2, 5, _SPARSE], ids=["2", "5", "sparse"])
def test_best_single_root_against_enumeration(graph, scale, ties):
    structure = polytopes.Arborescence(graph, single_root=True)
    vertices = structure.vertices()
    u = torch.randn(350, *structure.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    u = scale * (u.mul(1.5).round() if ties else u)
    x = structure.argmax(u)
    assert bool((x[:, None] == vertices).all(-1).any(1).all())
    torch.testing.assert_close((x * u).sum(1), (u @ vertices.T).amax(1), rtol=1e-13, atol=1e-9)


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


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("kind", ["single root", "free root"])
def test_padding_costs_no_digits(kind, scale):
    """A mask lowers utilities by more than their sum: that must not add to the rounding of those that stay."""
    root = None if kind == "free root" else 0
    padded, small = (polytopes.Arborescence(n, root=root, single_root=root == 0) for n in (30, 12))
    mask = padded.length_mask(torch.tensor([12]))
    generator = torch.Generator().manual_seed(1)
    u = scale * torch.randn(4, *padded.event_shape, dtype=torch.float64, generator=generator)
    x = sst.SoftArgmax(padded, sst.ExponentialFamilyEntropy())(u, mask=mask)
    torch.testing.assert_close(x[:, mask[0]], marginals(small, u[:, mask[0]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("structure", [s for s in LISTED if isinstance(s, polytopes.Arborescence)], ids=str)
def test_violation_of_arborescences(structure):
    vertices = structure.vertices()
    assert float(structure.violation(vertices).max()) <= 0
    assert float(structure.violation(vertices.mean(0, keepdim=True)).max()) <= 1e-12
    lacking, doubled = vertices.clone(), 2 * vertices
    lacking[torch.arange(len(lacking)), vertices.argmax(1)] = 0
    assert float(structure.violation(lacking).min()) > 0.1
    assert float(structure.violation(doubled).min()) > 0.1


def test_roots_that_are_not_single_are_outside():
    structure = polytopes.Arborescence(3, single_root=True)
    star = (structure.edge_index[0] == 0).double()[None]
    assert float(structure.violation(star)) == 1
    assert float(polytopes.Arborescence(3).violation(star)) == 0


def test_large_arborescences_answer_without_their_hull():
    structure = polytopes.Arborescence(40)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    soft(torch.randn(structure.event_shape))
    assert "canonical" not in vars(structure.hull)


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
