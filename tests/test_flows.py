"""Flow against enumeration, networkx, the layer and differences."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes import Flow
from polytopes.kernels.integer_points import integer_points
from tests.oracles import check_along_a_line

CYCLE = torch.tensor([[0, 0, 1, 2, 1, 2, 1], [1, 2, 2, 1, 3, 3, 1]])  # with a cycle, and a loop


def random_network(n: int, edges: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A ring, and other edges; supplies of sum 0."""
    tails = torch.cat([torch.arange(n), torch.randint(n, (edges - n,))])
    heads = (tails + 1 + torch.cat([torch.zeros(n).long(), torch.randint(n - 1, (edges - n,))])) % n
    supply = torch.randint(-3, 4, (n,))
    supply[0] -= supply.sum()
    return torch.stack([tails, heads]), supply


def by_enumeration(edge_index: torch.Tensor, supply: list[int], most: list[int]) -> torch.Tensor:
    every = torch.tensor(list(itertools.product(*(range(c + 1) for c in most))), dtype=torch.float64)
    balance = torch.zeros(len(every), len(supply), dtype=torch.float64)
    balance = balance.index_add(1, edge_index[0], every).index_add(1, edge_index[1], -every)
    return every[(balance == torch.tensor(supply)).all(1)]


@pytest.mark.parametrize(("supply", "most"), [([2, 1, 0, -3], [2, 1, 2, 2, 2, 3, 1]), ([1, 0, 0, -1], [1] * 7)])
def test_extreme_flows_and_argmax_are_those_of_enumeration(supply, most):
    structure, u = Flow(CYCLE, supply, most), torch.randn(60, 7, dtype=torch.float64)
    u[::2] = u[::2].round()
    every, points = by_enumeration(CYCLE, supply, most), structure.vertices()
    assert bool((every[:, None] == points).all(-1).any(0).all())
    assert len(points.unique(dim=0)) == len(points)
    assert structure.known_binary == (max(most) == 1)
    if structure.known_binary:
        assert len(points) == len(every)
    x = structure.argmax(u)
    torch.testing.assert_close((u * x).sum(-1), (u @ every.T).amax(-1))
    assert bool((points[:, None] == x).all(-1).any(0).all())


def test_checks_of_a_flow_that_is_not_binary():
    structure = Flow(CYCLE[:, :4], [3, 0, -3], [2, 1, 2, 2])
    sst.check(structure, [sst.Euclidean(), sst.ExponentialFamilyEntropy()], verbose=False).raise_if_failed()


def test_cost_is_networkx():
    torch.manual_seed(1)
    edge_index, supply = random_network(12, 40)
    structure, cost = Flow(edge_index, supply, 4), torch.randint(0, 20, (40,))
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((v, {"demand": -int(s)}) for v, s in enumerate(supply))
    for (i, j), c in zip(edge_index.T.tolist(), cost.tolist(), strict=True):
        graph.add_edge(i, j, capacity=4, weight=c)
    least, _ = nx.network_simplex(graph)
    x = structure.argmax(-cost.double())
    assert float((cost * x).sum()) == least
    assert torch.equal(x, x.round())


def test_of_one_unit_is_path():
    edge_index = torch.tensor([[0, 0, 1, 1, 2, 3], [1, 2, 2, 3, 3, 4]])
    u = torch.randn(20, 6, dtype=torch.float64)
    flow, path = Flow(edge_index, [1, 0, 0, 0, -1], 1), polytopes.Path(edge_index, 0, 4)
    assert torch.equal(flow.argmax(u), path.argmax(u))
    for f in (sst.Euclidean(), sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy()):
        x, y = sst.SoftArgmax(flow, f)(u, 0.5), sst.SoftArgmax(path, f)(u, 0.5)
        torch.testing.assert_close(x, y, rtol=0, atol=1e-8)


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
def test_gradients_of_learned_capacities_are_differences(regularizer):
    torch.manual_seed(2)
    structure = Flow(CYCLE, [2, 1, 0, -3], None)
    soft = sst.SoftArgmax(structure, regularizer)
    u = torch.randn(8, 7, dtype=torch.float64)
    c = 1.7 + torch.rand(8, 7, dtype=torch.float64)
    x = soft(u, 0.5, capacities=c)
    assert bool(((c - x < 1e-9) | (c - x > 1e-3)).all())
    assert bool((c - x < 1e-9).any())
    check_along_a_line(lambda u, c: soft(u, 0.5, capacities=c), u, c)


def test_learned_capacities_are_fixed_ones_where_equal():
    most = [2, 1, 2, 2, 2, 3, 1]
    fixed, learned = Flow(CYCLE, [2, 1, 0, -3], most), Flow(CYCLE, [2, 1, 0, -3], None)
    u, c = torch.randn(6, 7, dtype=torch.float64), torch.tensor(most).double()
    torch.testing.assert_close((u * fixed.argmax(u)).sum(-1), (u * learned.argmax(u, capacities=c)).sum(-1))
    for f in (sst.Euclidean(), sst.CategoricalEntropy()):
        x, y = sst.SoftArgmax(fixed, f)(u, 0.5), sst.SoftArgmax(learned, f)(u, 0.5, capacities=c)
        torch.testing.assert_close(x, y, rtol=0, atol=1e-8)
    narrow = torch.stack([c, c.index_fill(0, torch.tensor([4, 5]), 1.0)])
    with pytest.raises(sst.SolveError, match=r"element.* 1"):
        sst.SoftArgmax(learned, sst.Euclidean())(u[:2], 0.5, capacities=narrow)
    with pytest.raises(sst.SolveError, match=r"element.* 1"):
        learned.argmax(u[:2], capacities=narrow)


def test_one_step_on_capacities_lowers_a_loss():
    """As in the docstring: wider roads save length, and cost."""
    edge_index, supply = random_network(8, 24)
    length = torch.rand(24, dtype=torch.float64)
    soft = sst.SoftArgmax(Flow(edge_index, supply, None), sst.Euclidean())
    width = torch.full((24,), 20.0, dtype=torch.float64)
    width[::2] = soft(-length, 0.1, capacities=width)[::2] + 0.1
    busy = soft(-length, 0.1, capacities=width).argmax()
    width[busy] -= 0.3
    width.requires_grad_()

    def loss(width: torch.Tensor) -> torch.Tensor:
        x = soft(-length, 0.1, capacities=width)
        return (length * x).sum() + 0.05 * x.square().sum()

    before = loss(width)
    (g,) = torch.autograd.grad(before, width)
    assert float(g.amax()) < 1e-9
    assert float(g.amin()) < -1e-3
    assert float(loss(width.detach() - 0.01 * g)) < float(before.detach())


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_scales_and_float32(scale):
    edge_index, supply = random_network(6, 18)
    structure, u = Flow(edge_index, supply, 9), torch.randn(4, 18, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    torch.testing.assert_close(soft(scale * u, scale), soft(u, 1.0), rtol=0, atol=1e-8)
    assert soft(u.float()).dtype == torch.float32
    torch.testing.assert_close(soft(u.float()).double(), soft(u.float().double()), rtol=0, atol=1e-5)
    assert torch.equal(structure.argmax(scale * u), structure.argmax(u))
    assert soft(u[:0]).shape == (0, 18)


def test_500_edges():
    """100 vertices: optimal, and the gradient is that of differences."""
    edge_index, supply = random_network(100, 500)
    structure = Flow(edge_index, supply, 60)
    soft, u = sst.SoftArgmax(structure, sst.Euclidean()), -torch.rand(8, 500, dtype=torch.float64)
    assert soft.gap(u, soft(u)).abs().max() < 1e-7
    check_along_a_line(soft, u, step=1e-6)


def test_integer_points_prune_nothing_that_is_there():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, most = rng.integers(-2, 3, (3, 5)), rng.integers(0, 3, 5)
        lower = rng.integers(-3, 2, 3)
        upper = lower + rng.integers(0, 4, 3)
        every = np.array(list(itertools.product(*(range(m + 1) for m in most))))
        left = every[((every @ rows.T >= lower) & (every @ rows.T <= upper)).all(1)]
        assert sorted(map(tuple, integer_points(rows, lower, upper, most))) == sorted(map(tuple, left))


def test_errors():
    edge_index = torch.tensor([[0, 1, 0], [1, 2, 2]])
    assert Flow(edge_index, [1, 0, -1], 1) == Flow(edge_index, torch.tensor([1, 0, -1]), [1, 1, 1])
    assert Flow(edge_index, [1, 0, -1], 1) != Flow(edge_index, [1, 0, -1], 2)
    cases: list[tuple[Any, Any, Any, str]] = [
        ([1, 0, -2], 1, ValueError, "sums to -1"),
        ([1.0, 0, -1], 1, TypeError, "supply must be integers"),
        ([1, -1], 1, ValueError, "at least 3 integers"),
        (3, 1, ValueError, "vector of at least 3"),
        ([2**31, 0, -(2**31)], 2**33, ValueError, "too large"),
        ([1, 0, -1], 0.5, TypeError, "capacities must be integers"),
        ([1, 0, -1], [1, 1], ValueError, "one integer or 3"),
        ([3, 0, -3], 1, ValueError, "vertex 0 has supply 3, but the edges that leave carry 2 at most"),
        ([2, 2, -4], [9, 1, 1], ValueError, r"vertices \[0, 1\] together have supply 4, .* carry 2 at most"),
        ([-1, 0, 1], None, ValueError, "vertex 2 has supply 1, but the edges that leave carry 0"),
        ([1, 0, 0, -1], None, ValueError, r"\[0, 1, 2\] together have supply 1"),
    ]
    for supply, most, error, match in cases:
        with pytest.raises(error, match=match):
            Flow(edge_index, supply, most)
    wide = Flow(edge_index, [2, 0, -2], 2)
    with pytest.raises(ValueError, match="0/1 arrays"):
        wide.masked_argmax(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    many = Flow(*random_network(30, 90), 50)
    with pytest.raises(ValueError, match="which has no formula"):
        sst.SoftArgmax(many, sst.ExponentialFamilyEntropy())
    with pytest.raises(ValueError, match="too many"):
        many.vertices()
    with pytest.raises(NotImplementedError, match="no log-partition"):
        Flow(edge_index, [1, 0, -1], None).vertices()
