"""BMatching against enumeration, SciPy, the layer and differences."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import polytopes
import sst_cvx as sst
from polytopes import BMatching
from tests.oracles import check_along_a_line, marginals


def some_edges(n: int, m: int, edges: int) -> torch.Tensor:
    chosen = torch.randperm(n * m)[:edges]
    return torch.stack([chosen // m, chosen % m])


def degrees(structure: BMatching, x: torch.Tensor) -> torch.Tensor:
    """Of all vertices, left ones first."""
    left, right = structure.edge_index
    rows = torch.zeros(*x.shape[:-1], sum(structure.size), dtype=x.dtype)
    return rows.index_add(-1, left, x).index_add(-1, structure.size[0] + right, x)


def all_subsets(edges: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=edges)), dtype=torch.float64)


@pytest.mark.parametrize("at_least", [None, (1, 0)])
@pytest.mark.parametrize("seed", range(3))
def test_elements_argmax_and_marginals_are_those_of_enumeration(seed, at_least):
    torch.manual_seed(seed)
    edge_index = torch.cat([torch.tensor([[0, 1, 2], [0, 1, 1]]), some_edges(3, 4, 6)], 1)  # may be parallel
    most = torch.randint(1, 3, (7,))
    structure = BMatching(edge_index, most, at_least=at_least, size=(3, 4))
    every = all_subsets(9)
    least = torch.tensor([0, 0, 0] if at_least is None else [1, 1, 1])
    found = degrees(structure, every)
    left = every[(found <= most).all(-1) & (found[:, :3] >= least).all(-1)]
    assert torch.equal(structure.vertices().unique(dim=0), left.unique(dim=0))
    assert len(structure.vertices()) == len(left) > 1
    u = torch.randn(50, 9, dtype=torch.float64)
    u[::2] = u[::2].round()
    x = structure.argmax(u)
    assert torch.equal((left[:, None] == x).all(-1).any(0), torch.ones(50, dtype=torch.bool))
    torch.testing.assert_close((u * x).sum(-1), (u @ left.T).amax(-1))
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    assert (soft(u, 0.7) - marginals(structure, u / 0.7)).abs().max() < 1e-10


def test_capacity_1_is_a_partial_matching():
    n, m = 4, 5
    edge_index = torch.cartesian_prod(torch.arange(n), torch.arange(m)).T
    u = torch.randn(20, n, m, dtype=torch.float64)
    for regularizer in (sst.Euclidean(), sst.CategoricalEntropy()):
        ours = sst.SoftArgmax(BMatching(edge_index, 1), regularizer)(u.flatten(1), 0.5)
        theirs = sst.SoftArgmax(polytopes.Matching(n, m, partial=True), regularizer)(u, 0.5)
        torch.testing.assert_close(ours, theirs.flatten(1), rtol=0, atol=1e-8)
    exact = BMatching(edge_index, 1, at_least=(1, 0)).argmax(u.flatten(1)).reshape(u.shape)
    for row, chosen in zip(u, exact, strict=True):
        best = row.numpy()[linear_sum_assignment(row.numpy(), maximize=True)].sum()
        assert float((row * chosen).sum()) == pytest.approx(best)


def test_masks_lengths_and_absent_edges():
    edge_index = torch.cartesian_prod(torch.arange(3), torch.arange(4)).T
    structure = BMatching(edge_index, (2, 1))
    left, right = torch.tensor([2, 3, 0]), torch.tensor([4, 1, 2])
    mask = structure.length_mask(left, right)
    assert torch.equal(mask, (edge_index[0] < left[:, None]) & (edge_index[1] < right[:, None]))
    u = torch.randn(3, 12, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    x = soft(u, 0.5, mask=mask)
    torch.testing.assert_close(x, soft(u.masked_fill(~mask, -torch.inf), 0.5), rtol=0, atol=1e-10)
    smaller = BMatching(edge_index[:, mask[0]], (2, 1))
    torch.testing.assert_close(
        x[0, mask[0]], sst.SoftArgmax(smaller, sst.Euclidean())(u[0, mask[0]], 0.5), rtol=0, atol=1e-9
    )
    best = structure.masked_argmax(u, mask)
    assert torch.equal(best, structure.argmax(u.masked_fill(~mask, -torch.inf)))
    assert bool((best[~mask] == 0).all())
    needy = BMatching(edge_index, 2, at_least=(1, 0))
    with pytest.raises(sst.SolveError, match="no element"):
        needy.masked_argmax(u, mask)  # of length 0
    with pytest.raises(ValueError, match="at_least=None"):
        needy.length_mask(left, right)


LEARNED = [sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy()]


@pytest.mark.parametrize("regularizer", LEARNED, ids=repr)
def test_gradients_of_learned_capacities_are_differences(regularizer):
    torch.manual_seed(3)
    structure = BMatching(some_edges(3, 3, 7), None, size=(3, 3))
    soft = sst.SoftArgmax(structure, regularizer)
    u = torch.randn(8, 7, dtype=torch.float64) + 1
    c = 0.5 + torch.rand(8, 6, dtype=torch.float64)  # away from kinks, as is checked below
    x = soft(u, 0.7, capacities=c)
    slack = c - degrees(structure, x)
    assert bool(((slack < 1e-9) | (slack > 1e-3)).all())
    assert bool((slack < 1e-9).any())
    check_along_a_line(lambda u, c: soft(u, 0.7, capacities=c), u, c)


def test_learned_capacities_are_fixed_ones_where_equal():
    edge_index = some_edges(4, 5, 12)
    fixed, learned = BMatching(edge_index, (2, 1), size=(4, 5)), BMatching(edge_index, None, size=(4, 5))
    c = torch.tensor([2.0] * 4 + [1.0] * 5, dtype=torch.float64)
    u = torch.randn(6, 12, dtype=torch.float64)
    assert torch.equal((u * fixed.argmax(u)).sum(-1), (u * learned.argmax(u, capacities=c)).sum(-1))
    for regularizer in LEARNED:
        x, y = sst.SoftArgmax(fixed, regularizer)(u, 0.5), sst.SoftArgmax(learned, regularizer)(u, 0.5, capacities=c)
        torch.testing.assert_close(x, y, rtol=0, atol=1e-8)
    none = sst.SoftArgmax(learned, sst.Euclidean())(u, 0.5, capacities=torch.zeros(9))
    assert none.abs().max() < 1e-9
    half = learned.argmax(u.abs(), capacities=0.5 * c)
    assert bool((degrees(learned, half) <= 0.5 * c + 1e-9).all())


@pytest.mark.slow
def test_checks_of_learned_capacities():
    edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    report = sst.check(
        BMatching(edge_index, None), [sst.Euclidean()], verbose=False, capacities=torch.tensor([1.0, 2.0, 1.0, 1.0])
    )
    report.raise_if_failed()


def test_one_step_on_capacities_lowers_a_loss():
    """As in the docstring: the load of reviewers, each paper one review."""
    papers = 5
    edge_index = torch.cartesian_prod(torch.arange(3), torch.arange(papers)).T
    u = torch.randn(edge_index.shape[1], dtype=torch.float64)
    soft = sst.SoftArgmax(BMatching(edge_index, None), sst.Euclidean())
    load = torch.full((3,), 1.5, dtype=torch.float64, requires_grad=True)

    def loss(load: torch.Tensor) -> torch.Tensor:
        x = soft(u, 0.1, capacities=torch.cat([load, torch.ones(papers, dtype=torch.float64)]))
        return load.sum() * 0.3 - (u * x).sum()

    before = loss(load)
    (g,) = torch.autograd.grad(before, load)
    assert float(g.abs().max()) > 1e-3
    assert float(loss(load.detach() - 0.01 * g)) < float(before.detach())


def test_sizes_of_users():
    """200 x 200 with 2,000 edges: optimal, within the hull, and the gradient is that of differences."""
    structure = BMatching(some_edges(200, 200, 2000), (3, 2), size=(200, 200))
    u = torch.randn(1, 2000, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    assert soft.gap(u, soft(u)).abs().max() < 1e-8
    check_along_a_line(soft, u)


def test_errors():
    edge_index = torch.tensor([[0, 1, 1], [0, 0, 1]])
    structure = BMatching(edge_index, (1, 2))
    assert structure.size == (2, 2)
    assert structure == BMatching(edge_index, torch.tensor([1, 1, 2, 2])) == BMatching(edge_index, ([1, 1], [2, 2]))
    assert structure != BMatching(edge_index, 1)
    assert BMatching(edge_index, 1, at_least=(1, [1, 1])).vertices().tolist() == [[1, 0, 1]]
    cases: list[tuple[Any, Any, str]] = [
        ({"capacities": 1.5}, TypeError, "capacities must be integers"),
        ({"capacities": -1}, ValueError, "capacities must be between 0"),
        ({"capacities": torch.ones(3).long()}, ValueError, r"one integer or 4 \(2 left, then 2 right"),
        ({"capacities": (1, [1, 1, 1])}, ValueError, r"capacities \(right\)"),
        ({"capacities": 1, "size": (1, 2)}, ValueError, r"size\[0\]"),
        ({"capacities": 1, "size": 4}, TypeError, "size must be a pair"),
        ({"capacities": 1, "at_least": ([2, 0], 0)}, ValueError, "left vertex 0, but it may have 1"),
        ({"capacities": (2, 1), "at_least": ([1, 2], 0)}, ValueError, "cannot be met: 1 edges are lacking"),
    ]
    for wrong, error, match in cases:
        with pytest.raises(error, match=match):
            BMatching(edge_index, **wrong)
    with pytest.raises(TypeError, match="integer tensor"):
        BMatching(torch.zeros(2, 3), 1)
    learned = sst.SoftArgmax(BMatching(edge_index, None), sst.Euclidean())
    with pytest.raises(TypeError, match="missing"):
        learned(torch.zeros(3))
    with pytest.raises(ValueError, match="capacities"):
        learned(torch.zeros(3), capacities=-torch.ones(4))
    with pytest.raises(NotImplementedError, match="no log-partition, sampling or list"):
        learned.structure.vertices()
    many = BMatching(some_edges(20, 20, 60), 2)
    with pytest.raises(ValueError, match="which has no formula"):
        many.log_partition(torch.zeros(60))
    with pytest.raises(ValueError, match="which has no formula"):
        sst.SoftArgmax(many, sst.ExponentialFamilyEntropy())
    with pytest.raises(ValueError, match="too many"):
        many.vertices()
