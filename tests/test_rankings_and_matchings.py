"""Isotonic regression and rankings; matchings of every shape against enumeration and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression as by_scipy
from scipy.optimize import linear_sum_assignment

import polytopes
import sst_cvx as sst
from sst_cvx.isotonic import isotonic_regression


@pytest.mark.parametrize("kind", ["noise", "ties", "increasing", "far"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 33, 300])
def test_isotonic_regression_against_scipy(n, kind):
    y = torch.randn(30, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    y = {"noise": y, "ties": y.round(), "increasing": y.abs().cumsum(1), "far": 1e4 * y}[kind]
    expected = np.stack([by_scipy(row, increasing=False).x for row in y.numpy()])
    np.testing.assert_allclose(isotonic_regression(y), expected, rtol=1e-11, atol=1e-11)


def test_isotonic_regression_is_batched_and_differentiable():
    y = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(isotonic_regression, y)
    torch.autograd.gradgradcheck(isotonic_regression, y)
    torch.testing.assert_close(isotonic_regression(y)[1, 2], isotonic_regression(y[1, 2]))
    assert isotonic_regression(y[:0]).shape == (0, 3, 6)
    assert isotonic_regression(y.float()).dtype == torch.float32


@pytest.mark.parametrize("weights", [[3.0, 1.0, 0.0, 2.0], [-1.0, 5.0, 5.0], [0.3], [2.0, 2.0, 2.0, 2.0, 2.0]])
def test_rankings(weights):
    structure = polytopes.Permutahedron(torch.tensor(weights))
    assert sst.check(structure, [sst.Euclidean(), sst.ExponentialFamilyEntropy()]).ok
    u = torch.randn(200, len(weights), dtype=torch.float64).round(decimals=1)
    vertices = structure.vertices()
    torch.testing.assert_close((u * structure.argmax(u)).sum(1), (u @ vertices.T).amax(1))


def test_soft_ranks_of_a_thousand_numbers():
    structure = polytopes.Permutahedron(torch.arange(1000))
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    u = 300 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    x = soft(u)
    assert x.dtype == torch.float32
    assert float(structure.violation(x.double()).max()) < 1e-6
    assert bool((x.gather(1, u.argsort(1)).diff(dim=1) >= 0).all())
    gap = soft.gap(u.double(), soft(u.double()))
    assert float(gap.abs().max()) < 1e-9 * float(u.abs().sum(1).max()) * 1000
    with pytest.raises(ValueError, match="permanent"):
        sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())


def test_wrong_weights_are_refused():
    with pytest.raises(TypeError, match="real tensor"):
        polytopes.Permutahedron([1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n >= 1"):
        polytopes.Permutahedron(torch.ones(2, 2))
    with pytest.raises(ValueError, match="finite"):
        polytopes.Permutahedron(torch.tensor([1.0, torch.inf]))


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 4), (4, 2), (1, 3), (3, 1)])
def test_matchings_against_enumeration(n, m, partial):
    structure = polytopes.Matching(n, m, partial=partial)
    vertices = structure.vertices()
    assert len({tuple(v.flatten().tolist()) for v in vertices}) == len(vertices)
    assert bool((vertices.sum(1) <= 1).all())
    assert bool((vertices.sum(2) <= 1).all())
    assert partial or bool((vertices.sum((1, 2)) == min(n, m)).all())
    u = 3 * torch.randn(20, n, m, dtype=torch.float64)
    scores = u.flatten(1) @ vertices.flatten(1).T
    torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(1))
    torch.testing.assert_close((u * structure.argmax(u)).sum((1, 2)), scores.amax(1))


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 9), (9, 4)])
def test_assignments_against_scipy(n, m):
    u = torch.randn(340, n, m, dtype=torch.float64).round(decimals=1)
    values = (u * polytopes.Matching(n, m).argmax(u)).sum((1, 2))
    for matrix, value in zip(u.numpy(), values.tolist(), strict=True):
        assert value == pytest.approx(matrix[linear_sum_assignment(matrix, maximize=True)].sum())


def test_partial_matchings_leave_out_what_loses():
    structure = polytopes.Matching(3, partial=True)
    u = torch.tensor([[2.0, -1.0, -1.0], [-1.0, -5.0, 1.0], [-1.0, -1.0, -9.0]])
    expected = torch.zeros(3, 3)
    expected[0, 0] = expected[1, 2] = 1.0
    torch.testing.assert_close(structure.argmax(u), expected)
    torch.testing.assert_close(sst.SoftArgmax(structure, sst.Euclidean())(u, 0.01), expected)


@pytest.mark.parametrize(
    "regularizer", [sst.Euclidean(), sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy()], ids=repr
)
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 2), (1, 1), (0, 0)])
def test_padded_matchings_are_small_matchings(rows, columns, regularizer):
    structure = polytopes.Matching(3)
    mask = structure.length_mask(torch.tensor(rows), torch.tensor(columns))
    u = torch.randn(2, 3, 3, dtype=torch.float64)
    x = sst.SoftArgmax(structure, regularizer)(u, 0.5, mask=mask)
    assert bool((x[:, ~mask] == 0).all())
    if rows:
        small = sst.SoftArgmax(polytopes.Matching(rows), regularizer)(u[:, :rows, :columns], 0.5)
        torch.testing.assert_close(x[:, :rows, :columns], small, rtol=0, atol=1e-8)
