"""Compiled sweeps over directed hypergraphs against those of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import polytopes
from polytopes.kernels.hypergraph_order import NONE
from polytopes.kernels.hypergraph_sums import Hypergraph
from sst_cvx import native

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def hypergraphs(count: int, seed: int = 0) -> list[Hypergraph]:
    """Of random splits of random intervals, with parallel arcs, arcs of every number of tails, and shared items."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        n, items = int(rng.integers(1, 6)), int(rng.integers(1, 9))
        spans = sorted(((i, j) for i in range(n) for j in range(i, n)), key=lambda span: span[1] - span[0])
        place, arcs = {span: v for v, span in enumerate(spans)}, []
        for (i, j), v in place.items():
            splits = [(place[i, k], place[k + 1, j]) for k in range(i, j)]
            for first, second in splits or [(NONE, NONE)]:
                arcs += [(v, first, second, int(rng.integers(-1, items)))] * int(rng.integers(1, 3))
            if j > i and rng.random() < 0.5:
                arcs.append((v, NONE, place[i, j - 1], int(rng.integers(-1, items))))
        found.append(Hypergraph(*rng.permutation(np.array(arcs)).T, items=items))
    return found


def answers(graph: Hypergraph, u: torch.Tensor) -> list[torch.Tensor]:
    """Log-sums, marginals, their derivatives, those of these, best derivations and samples."""
    u = u.clone().requires_grad_()
    value, x = graph.log_sum(u), graph.marginals(u)
    direction = torch.linspace(-1, 1, graph.items, dtype=u.dtype)
    scalar = (x * direction).sum() + value.sum()
    (only,) = torch.autograd.grad(scalar, u, retain_graph=True)
    (first,) = torch.autograd.grad(scalar, u, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), u)
    with torch.no_grad():
        again = graph.log_sum(u)
    drawn = graph.sample(u, torch.Generator().manual_seed(5))
    return [value.detach(), again, x.detach(), only, first.detach(), second, graph.best(u), drawn]


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_hypergraphs(dtype, scale):
    for graph in hypergraphs(6):
        u = scale * torch.randn(3, graph.items, dtype=dtype, generator=torch.Generator().manual_seed(1))
        found = answers(graph, u)
        with native.switched(False):
            expected = answers(graph, u)
        for ours, right in zip(found, expected, strict=True):
            room = TOLERANCE[dtype] * (1 + float(right.abs().max()))
            torch.testing.assert_close(ours, right, rtol=0, atol=room)


@pytest.mark.parametrize("shape", [(0,), (), (1,), (2, 3)])
def test_batches(shape):
    graph = hypergraphs(3, seed=3)[2]
    u = torch.randn(*shape, graph.items, dtype=torch.float64)
    found = graph.log_sum(u), graph.marginals(u), graph.best(u), graph.sample(u, torch.Generator().manual_seed(0))
    with native.switched(False):
        expected = (
            graph.log_sum(u),
            graph.marginals(u),
            graph.best(u),
            graph.sample(u, torch.Generator().manual_seed(0)),
        )
    for ours, right in zip(found, expected, strict=True):
        assert ours.shape == right.shape
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


def test_ties_go_to_the_first_arc_either_way():
    for graph in hypergraphs(8, seed=7):
        u = torch.randint(2, (4, graph.items)).double()
        with native.switched(False):
            expected = graph.best(u)
        assert torch.equal(graph.best(u), expected)


def test_runs_are_as_short_as_parts_in_memory_and_as_numbers_hold(monkeypatch):
    structure = polytopes.BinaryTree(12)
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64)
    expected = structure.marginals(u), structure.log_partition(u)
    monkeypatch.setattr("polytopes.kernels.hypergraph_sums._PART", 1)
    for ours, right in zip((structure.marginals(u), structure.log_partition(u)), expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


def test_what_carries_no_weight_is_dropped_without_a_trace():
    """Of forbidden items far below: as tensors, whose exponentials are 0."""
    structure = polytopes.ProjectiveTree(6)
    u = torch.randn(4, structure.event_size, dtype=torch.float64)
    u[:, ::3] -= torch.tensor([690.0, 705.0, 745.0, 1e4], dtype=torch.float64)[:, None]
    found = structure.marginals(u)
    with native.switched(False):
        expected = structure.marginals(u)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)  # of scores of 1e4, rounded to 2e-12
