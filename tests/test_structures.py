"""The contract: every check of every example."""

import re
from pathlib import Path

import cvxpy as cp
import networkx as nx
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import polytopes
import sst_cvx as sst
from polytopes import SpanningTree
from tests.hulls import pairs
from tests.oracles import marginals

#: With the slow checks: temperature 1, for 0.1 is the hardest, and differences of what is solved.
SLOW = re.compile(r"t=1$|by interior_point: gradient = differences")


def marks(name):
    return pytest.mark.exhaustive if name.endswith("t=0.3") else pytest.mark.slow if SLOW.search(name) else ()


CONTRACT = [
    pytest.param(check, id=f"{structure!r}: {check}", marks=marks(str(check)))
    for structure in (*polytopes.EXAMPLES, pairs())
    for check in sst.checks(structure)
]


@pytest.mark.parametrize("check", CONTRACT)
def test_contract(check):
    check()


def test_contract_is_not_vacuous():
    report = sst.check(polytopes.KSubset(5, 2), verbose=False)
    assert [r.name for r in report.results if r.ok is None] == []
    assert len(report.results) > 80


OF_ONE_SIZE = [s for s in polytopes.EXAMPLES if s.vertices().flatten(1).sum(1).unique().numel() == 1]


def test_most_examples_are_of_one_size():
    assert len(OF_ONE_SIZE) > len(polytopes.EXAMPLES) / 2


@pytest.mark.parametrize("structure", OF_ONE_SIZE, ids=repr)
def test_log_partition_is_invariant_to_what_is_constant_on_the_set(structure):
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64)
    ones = torch.ones(structure.event_shape, dtype=torch.float64)
    size = float(structure.vertices()[0].sum())
    assert torch.allclose(structure.log_partition(u + 7 * ones), structure.log_partition(u) + 7 * size)


def test_matching_argmax_is_scipys():
    u = torch.randn(20, 7, 7, dtype=torch.float64)
    x = polytopes.Matching(7).argmax(u)
    for matrix, chosen in zip(u.numpy(), x.numpy(), strict=True):
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        assert np.isclose((matrix * chosen).sum(), matrix[rows, columns].sum())


def test_log_permanent_of_ones():
    """per(ones) = n!"""
    n = 10
    assert torch.isclose(
        polytopes.Matching(n).log_partition(torch.zeros(n, n, dtype=torch.float64)),
        torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)),
    )


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize(("n", "k"), [(40, 7), (333, 50), (1000, 100)])
def test_k_subset_marginals_against_the_recursion(n, k, scale):
    """The textbook recursion over items, in log-space, float64; float32 answers within 1e-5."""
    u = scale * torch.randn(2, n, dtype=torch.float64)
    v = u.clone().requires_grad_()
    table = torch.full((2, k + 1), -1e30, dtype=torch.float64)
    table[:, 0] = 0
    for i in range(n):
        joined = torch.logaddexp(table[:, 1:], table[:, :-1] + v[:, i : i + 1])
        table = torch.cat([table[:, :1], joined], dim=1)
    (expected,) = torch.autograd.grad(table[:, k].sum(), v)
    soft = sst.SoftArgmax(polytopes.KSubset(n, k), sst.ExponentialFamilyEntropy())
    assert torch.allclose(soft(u), expected, atol=1e-9)
    assert torch.allclose(soft(u.float()).double(), soft(u.float().double()), atol=1e-5)


class TestDeclared:
    """Argmax of declared structures by HiGHS."""

    def test_against_enumeration(self):
        structure = pairs(8, 3)
        grid = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 8)
        points = grid[(grid.sum(1) == 3) & ((grid[:, 0::2] + grid[:, 1::2]) <= 1).all(1)]
        u = torch.randn(5, 6, 8, dtype=torch.float64)
        x = structure.argmax(u)
        assert x.shape == u.shape
        assert torch.allclose((u * x).sum(-1), (u @ points.T).amax(-1))

    def test_loose_hull_needs_integers(self):
        """The odd cycle: pairwise constraints have the vertex (1/2, ..., 1/2); an integer optimum picks two."""
        x = cp.Variable(5)
        cycle = [x[i] + x[(i + 1) % 5] <= 1 for i in range(5)]
        u = torch.ones(5, dtype=torch.float64)
        loose, whole = (sst.Structure(x, [x >= 0, *cycle], integral=flag) for flag in (True, False))
        assert torch.allclose(loose.argmax(u), torch.full((5,), 0.5, dtype=torch.float64))
        assert whole.argmax(u).sum() == 2
        failed = sst.check(loose, [sst.Euclidean()], verbose=False).failures
        assert any("hull" in r.name for r in failed)

    def test_matrix_variable_keeps_its_layout(self):
        x = cp.Variable((2, 3))
        structure = sst.Structure(x, [x >= 0, cp.sum(x) == 1])
        u = torch.zeros(2, 3)
        u[0, 2] = 1
        assert torch.equal(structure.argmax(u), u)

    def test_auxiliary_variables(self):
        """Path of 3 edges in parallel, through a flow variable: x = flow."""
        x, flow = cp.Variable(3), cp.Variable(3)
        structure = sst.Structure(x, [flow >= 0, cp.sum(flow) == 1, x == flow])
        sst.check(structure, [sst.Euclidean(), sst.CategoricalEntropy()], verbose=False).raise_if_failed()

    def test_parameters_change_the_argmax(self):
        x, capacity = cp.Variable(4), cp.Parameter(nonneg=True, name="capacity")
        structure = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity])
        u = torch.tensor([4.0, 3.0, 2.0, -1.0])
        several = structure.argmax(u.expand(2, 4), capacity=torch.tensor([1.0, 2.0]))
        assert several.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]

    def test_other_cones(self):
        """The unit ball: argmax u / |u|."""
        x = cp.Variable(3)
        ball = sst.Structure(x, [cp.norm(x) <= 1])
        u = torch.randn(2, 3, dtype=torch.float64)
        assert torch.allclose(ball.argmax(u), u / u.norm(dim=-1, keepdim=True), atol=1e-6)

    def test_semidefinite(self):
        """The spectraplex: argmax is the projector on the leading eigenvector."""
        x = cp.Variable((3, 3), PSD=True)
        structure = sst.Structure(x, [cp.trace(x) == 1])
        u = torch.randn(3, 3, dtype=torch.float64)
        leading = torch.linalg.eigh(0.5 * (u + u.T)).eigenvectors[:, -1]
        assert torch.allclose(structure.argmax(u), torch.outer(leading, leading), atol=1e-5)

    def test_repr(self):
        assert repr(pairs()) == "Structure(event_shape=(6,), 3 constraints)"
        assert repr(polytopes.KSubset(6, 2)) == "KSubset(n=6, k=2)"


def _complete(n: int, u: torch.Tensor) -> nx.Graph:
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        [(i, j, w) for (i, j), w in zip(SpanningTree(n).edge_index.T.tolist(), u.tolist(), strict=True)]
    )
    return graph


@pytest.mark.parametrize("ties", [False, True])
def test_spanning_tree_argmax_is_networkxs(ties):
    u = torch.randn(500, 28, dtype=torch.float64)
    u = u.round() if ties else u
    x = SpanningTree(8).argmax(u)
    assert x.sum(-1).tolist() == [7.0] * 500
    for utilities, tree in zip(u, x, strict=True):
        best = nx.maximum_spanning_tree(_complete(8, utilities)).size(weight="weight")
        assert float(utilities @ tree) == pytest.approx(best)


def test_spanning_trees_are_counted():
    """Cayley: n^(n - 2) of the complete graph; and the 8 of a square with one diagonal."""
    for n in (2, 3, 5, 30):
        log_count = SpanningTree(n).log_partition(torch.zeros(n * (n - 1) // 2, dtype=torch.float64))
        assert float(log_count) == pytest.approx((n - 2) * np.log(n))
    kite = SpanningTree(torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]]))
    assert len(kite.vertices()) == 8


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("make", [lambda: SpanningTree(6), lambda: polytopes.AtMostKSubset(9, 3)])
def test_marginals_at_every_scale(make, scale):
    structure = make()
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    u = (scale * torch.randn(20, *structure.event_shape)).double()
    truth = marginals(structure, u)
    assert float((soft(u) - truth).abs().max()) < 1e-10
    assert float((soft(u.float()).double() - truth).abs().max()) < 1e-5


def test_graphs_without_spanning_trees():
    with pytest.raises(ValueError, match="does not connect its 4 vertices"):
        SpanningTree(torch.tensor([[0, 2], [1, 3]]))
    with pytest.raises(ValueError, match="each undirected edge once"):
        SpanningTree(torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(TypeError, match=r"integer tensor \(2, edges\)"):
        SpanningTree(torch.zeros(3, 2))


def test_paths_on_a_grid():
    """Right and down on a 4 x 5 grid: a binomial count, and the best path by dynamic programming over cells."""
    place = {(i, j): 5 * i + j for i in range(4) for j in range(5)}
    edges = [(p, q) for p in place for q in ((p[0] + 1, p[1]), (p[0], p[1] + 1)) if q in place]
    path = polytopes.Path(torch.tensor([[place[p] for p, _ in edges], [place[q] for _, q in edges]]), 0, 19)
    assert float(path.log_partition(torch.zeros(len(edges), dtype=torch.float64)).exp()) == pytest.approx(35)
    u = torch.randn(50, len(edges), dtype=torch.float64)
    for utilities, chosen in zip(u, path.argmax(u), strict=True):
        best = {(0, 0): 0.0}
        for (p, q), weight in sorted(zip(edges, utilities.tolist(), strict=True), key=lambda e: (e[0][1], e[0][0])):
            best[q] = max(best.get(q, -np.inf), best[p] + weight)
        assert float(utilities @ chosen) == pytest.approx(best[3, 4])
        assert chosen.sum() == 7


def test_graphs_without_paths():
    with pytest.raises(ValueError, match="directed cycle"):
        polytopes.Path(torch.tensor([[0, 1, 2], [1, 2, 0]]), 0, 2)
    with pytest.raises(ValueError, match="no path from 1 to 0"):
        polytopes.Path(torch.tensor([[0], [1]]), 1, 0)
    with pytest.raises(ValueError, match="different vertices"):
        polytopes.Path(torch.tensor([[0], [1]]), 1, 1)
    with pytest.raises(TypeError, match="integer tensor"):
        polytopes.Path(torch.zeros(2, 3), 0, 1)


def test_the_table_of_paths_is_true():
    """polytopes/README.md, cell by cell, for the last example of every class."""
    lines = (Path(__file__).parent.parent / "polytopes" / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    regularizers = [sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5)]
    examples = {type(s).__name__: s for s in polytopes.EXAMPLES}
    examples["Matching"] = polytopes.Matching(3)
    assert {row[0].strip("`") for row in rows} == set(examples)
    for name, _, *cells in rows:
        structure = examples[name.strip("`")]
        for cell, regularizer in zip(cells, [*regularizers, sst.ExponentialFamilyEntropy()], strict=True):
            assert cell.split(":")[0] == sst.SoftArgmax(structure, regularizer).path, (structure, regularizer)
