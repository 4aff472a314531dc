"""Compiled sweeps over directed acyclic graphs against those of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels.dag_order import levels, topological
from polytopes.kernels.dag_sums import PathGraph
from sst_cvx import native

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def graphs(count: int, seed: int = 0) -> list[PathGraph]:
    """Random ones, with parallel edges, dead ends, and vertices numbered in any order."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        vertices = int(rng.integers(2, 12))
        ends = np.sort(rng.integers(0, vertices, (2, int(rng.integers(1, 40)))), axis=0)
        ends = rng.permutation(vertices)[ends[:, ends[0] != ends[1]]]
        if ends.size and ends[0, 0] != ends[1, -1]:
            graph = PathGraph(*ends, int(ends[0, 0]), int(ends[1, -1]))
            found += [graph] if graph.reachable else []
    return found


def answers(graph: PathGraph, u: torch.Tensor) -> list[torch.Tensor]:
    """Log-sums, marginals, their derivatives, those of these, and best paths."""
    u = u.clone().requires_grad_()
    value, x = graph.log_sum(u), graph.marginals(u)
    direction = torch.linspace(-1, 1, graph.edges, dtype=u.dtype)
    (first,) = torch.autograd.grad((x * direction).sum() + value.sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), u)
    with torch.no_grad():
        again = graph.log_sum(u)
    return [value.detach(), again, x.detach(), first.detach(), second, graph.best(u)]


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_graphs(dtype, scale):
    for graph in graphs(12):
        u = scale * torch.randn(3, graph.edges, dtype=dtype, generator=torch.Generator().manual_seed(1))
        found = answers(graph, u)
        with native.switched(False):
            expected = answers(graph, u)
        for ours, right in zip(found, expected, strict=True):
            room = TOLERANCE[dtype] * (1 + float(right.abs().max()))
            torch.testing.assert_close(ours, right, rtol=0, atol=room)


@pytest.mark.parametrize("shape", [(0,), (), (1,), (2, 3)])
def test_batches(shape):
    graph = graphs(1, seed=3)[0]
    u = torch.randn(*shape, graph.edges, dtype=torch.float64)
    found = graph.log_sum(u), graph.marginals(u), graph.best(u)
    with native.switched(False):
        expected = graph.log_sum(u), graph.marginals(u), graph.best(u)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


def test_more_ways_than_a_number_holds():
    """4^2000 paths, in runs of fewer; and the same at utilities that leave one of them."""
    steps, width = 2000, 4
    tails = torch.arange(steps).repeat_interleave(width)
    structure = polytopes.Path(torch.stack([tails, tails + 1]), 0, steps)
    u = torch.zeros(1, steps * width, dtype=torch.float64, requires_grad=True)
    value = structure.log_partition(u)
    torch.testing.assert_close(value.detach(), torch.tensor([steps * np.log(width)]), rtol=1e-13, atol=0)
    (x,) = torch.autograd.grad(value.sum(), u)
    torch.testing.assert_close(x, torch.full_like(x, 1 / width), rtol=1e-12, atol=0)
    cold = 1e4 * torch.randn(2, steps * width, dtype=torch.float64)
    marginals = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(cold)
    torch.testing.assert_close(marginals.reshape(2, steps, width), cold.reshape(2, steps, width).softmax(-1))


def test_runs_are_as_short_as_parts_in_memory(monkeypatch):
    graph, u = graphs(1, seed=5)[0], torch.randn(5, 200, dtype=torch.float64)[:, :1]
    u = u * torch.linspace(0, 1, graph.edges, dtype=torch.float64)
    expected = graph.marginals(u)
    monkeypatch.setattr("polytopes.kernels.dag_sums._PART", 1)
    torch.testing.assert_close(graph.marginals(u), expected, rtol=0, atol=1e-15)


def test_ties_go_to_the_first_edge_either_way():
    for graph in graphs(8, seed=7):
        u = torch.randint(2, (4, graph.edges)).double()
        with native.switched(False):
            expected = graph.best(u)
        assert torch.equal(graph.best(u), expected)


def test_orders():
    """A topological order of deep and of wide graphs, and levels; cycles and loops are found."""
    rng = np.random.default_rng(0)
    for vertices in (2, 50, 2000):
        ends = np.sort(rng.integers(0, vertices, (2, 3 * vertices)), axis=0)
        tails, heads = rng.permutation(vertices)[ends[:, ends[0] != ends[1]]]
        place = topological(tails, heads, vertices)
        assert bool((place[tails] < place[heads]).all())
        level = np.empty(vertices, int)
        for number, members in enumerate(levels(tails, heads, vertices)):
            level[members] = number
        assert bool((level[tails] < level[heads]).all())
    for cycle in ([[0, 1, 2], [1, 2, 1]], [[0, 1], [1, 1]]):
        with pytest.raises(ValueError, match="cycle"):
            topological(*np.array(cycle), 3)
