"""StableSet against enumeration, networkx' cliques, the layer and differences."""

from __future__ import annotations

import itertools
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

import sst_cvx as sst
from polytopes import StableSet
from tests.oracles import check_along_a_line, marginals


def intervals(n: int, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if whole:  # ties among ends
        starts = torch.randint(0, 6, (n,))
        return starts, starts + torch.randint(1, 4, (n,))
    starts = torch.rand(n, dtype=torch.float64)
    return starts, starts + 0.5 * torch.rand(n, dtype=torch.float64) + 1e-3


def by_definition(starts: torch.Tensor, ends: torch.Tensor, capacity: int) -> torch.Tensor:
    """Sets with at most so many intervals at every start: loads rise nowhere else."""
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(starts))), dtype=torch.float64)
    at = ((starts[None] <= starts[:, None]) & (starts[:, None] < ends[None])).double()
    return every[(every @ at.T <= capacity).all(1)]


@pytest.mark.parametrize("capacity", [0, 1, 2])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_elements_argmax_and_marginals_are_those_of_enumeration(n, whole, capacity):
    starts, ends = intervals(n, whole)
    structure, every = StableSet(starts, ends, capacity), by_definition(starts, ends, capacity)
    points = structure.vertices()
    assert len(points) == len(every)
    assert torch.equal(points.unique(dim=0), every.unique(dim=0))
    u = torch.randn(30, n, dtype=torch.float64)
    u[::2] = u[::2].round()
    x = structure.argmax(u)
    assert bool((every[:, None] == x).all(-1).any(0).all())
    torch.testing.assert_close((u * x).sum(-1), (u @ every.T).amax(-1))
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    assert (soft(u, 0.7) - marginals(structure, u / 0.7)).abs().max() < 1e-10
    torch.testing.assert_close(structure.log_partition(u), (u @ every.T).logsumexp(-1))


def test_rows_are_the_maximal_cliques():
    """As networkx finds them, and columns are consecutive ones."""
    for whole in (False, True):
        starts, ends = intervals(15, whole)
        graph = nx.Graph()
        graph.add_nodes_from(range(15))
        meet = (starts[None] < ends[:, None]) & (starts[:, None] < ends[None])
        graph.add_edges_from((i, j) for i, j in torch.nonzero(meet).tolist() if i < j)
        rows = StableSet(starts, ends)._cliques().toarray()
        ours = {frozenset(np.flatnonzero(row)) for row in rows}
        assert ours == set(map(frozenset, nx.find_cliques(graph)))
        assert len(ours) == len(rows)
        assert bool((np.abs(np.diff(rows, axis=0, prepend=0, append=0)).sum(0) == 2).all())


def test_half_open_and_exact_time_stamps():
    touching = StableSet([0, 1], [1, 2])
    assert touching.argmax(torch.ones(2)).tolist() == [1, 1]
    assert StableSet([0, 1], [2, 3]).argmax(torch.ones(2)).sum() == 1  # closed [0, 1] and [1, 2]
    now = 2**60  # one apart, in nanoseconds: no float64
    stamps = torch.tensor([now, now + 1])
    assert StableSet(stamps, stamps + 1).argmax(torch.ones(2)).tolist() == [1, 1]
    assert touching == StableSet(stamps, stamps + 1)
    assert touching != StableSet([0, 1], [1, 2], 2)


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy()], ids=repr)
@pytest.mark.parametrize("capacity", [1, 3])
def test_soft_answers_are_optimal_on_every_path(capacity, regularizer):
    structure, u = StableSet(*intervals(30, False), capacity), torch.randn(5, 30, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, regularizer)
    euclidean = isinstance(regularizer, sst.Euclidean)
    assert soft.path == ("active_set" if euclidean and capacity == 1 else "interior_point")
    x, y = soft(u), sst.SoftArgmax(structure, regularizer, path="interior_point")(u)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-8)
    if euclidean:
        assert soft.gap(u, x).abs().max() < 1e-8


def test_derivatives_and_float32():
    structure = StableSet(*intervals(9, True))
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    u = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(soft, u)
    torch.autograd.gradgradcheck(soft, u)
    for scale in (1.0, 1e3):
        v = scale * u.detach().float()
        torch.testing.assert_close(soft(v).double(), soft(v.double()), rtol=0, atol=1e-5)
    assert soft(u[:0]).shape == (0, 9)


def test_masks_and_lengths():
    starts, ends = intervals(8, False)
    structure, u = StableSet(starts, ends), torch.randn(2, 8, dtype=torch.float64)
    mask = sst.length_mask(torch.tensor([5, 8]), 8)
    for f in (sst.Euclidean(), sst.ExponentialFamilyEntropy()):
        x = sst.SoftArgmax(structure, f)(u, 0.5, mask=mask)
        y = sst.SoftArgmax(StableSet(starts[:5], ends[:5]), f)(u[0, :5], 0.5)
        torch.testing.assert_close(x[0, :5], y, rtol=0, atol=1e-9)
        assert bool((x[0, 5:] == 0).all())
    absent = u.masked_fill(~mask, -torch.inf)
    assert torch.equal(structure.argmax(absent), structure.masked_argmax(u, mask))


def test_violation_is_the_hulls():
    for capacity in (1, 2):
        structure = StableSet(*intervals(12, True), capacity)
        x = torch.rand(200, 12, dtype=torch.float64) * 1.3 - 0.1
        ours, hulls = structure.violation(x), structure.hull.violation(x)
        assert torch.equal(ours > 1e-12, hulls > 1e-12)
        torch.testing.assert_close(ours.clamp(min=0), hulls.clamp(min=0))


def test_learned_capacity():
    """Its gradient is that of differences; at 1 the answer is the fixed one's; one step lowers a loss."""
    starts, ends = intervals(9, True)
    fixed, learned = StableSet(starts, ends), StableSet(starts, ends, None)
    u, soft = torch.rand(2, 9, dtype=torch.float64), sst.SoftArgmax(learned, sst.Euclidean())
    torch.testing.assert_close(
        soft(u, 0.3, capacity=1), sst.SoftArgmax(fixed, sst.Euclidean())(u, 0.3), rtol=0, atol=1e-8
    )
    best, same = fixed.argmax(u), learned.argmax(u, capacity=torch.tensor(1.0))
    torch.testing.assert_close((u * best).sum(-1), (u * same).sum(-1))
    rooms = torch.tensor([1.37, 0.61], dtype=torch.float64, requires_grad=True)
    check_along_a_line(lambda u, r: soft(u, 0.3, capacity=r[:, 0]), u, rooms[:, None])

    def loss(rooms: torch.Tensor) -> torch.Tensor:
        return (0.2 * rooms - (u * soft(u, 0.3, capacity=rooms)).sum(-1)).sum()

    (g,) = torch.autograd.grad(loss(rooms), rooms)
    assert float(g.abs().min()) > 1e-3
    assert float(loss(rooms.detach() - 0.01 * g)) < float(loss(rooms.detach()))


def test_errors():
    cases: list[tuple[Any, Any, str]] = [
        (([0, 1], [1]), ValueError, "as many"),
        (([0, 1], [1, 1]), ValueError, "interval 1 must end after its start"),
        (([0.0, float("nan")], [1, 2]), ValueError, "starts must be finite"),
        (([], []), ValueError, "at least one"),
        ((torch.zeros(2, 2), torch.ones(2, 2)), ValueError, "vector"),
        ((["a"], [1]), TypeError, "real numbers"),
        (([True], [2]), TypeError, "must be real"),
        (([0], [1], -1), ValueError, "capacity"),
        (([0], [1], 1.5), TypeError, "capacity"),
    ]
    for given, error, match in cases:
        with pytest.raises(error, match=match):
            StableSet(*given)
    starts, ends = intervals(13, False)
    with pytest.raises(ValueError, match="which has no formula"):
        sst.SoftArgmax(StableSet(starts, ends, 2), sst.ExponentialFamilyEntropy())
    with pytest.raises(NotImplementedError, match="no log-partition"):
        StableSet(starts, ends, None).vertices()


def test_utilities_of_any_strides():
    """The compiled active set writes into arrays like its utilities: a transpose once lost what was written."""
    soft = sst.SoftArgmax(StableSet(*intervals(7, True)), sst.Euclidean())
    u = torch.randn(7, 5, dtype=torch.float64).T
    assert not u.is_contiguous()
    assert torch.equal(soft(u), soft(u.contiguous()))
