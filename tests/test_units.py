"""Hulls in any units: coefficients, bounds and variables of 1e-12 to 1e12, against vertices that are enumerated."""

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch

import sst_cvx as sst
from sst_cvx.hull.linear import independent_rows
from tests.hulls import pairs as exclusive_pairs


def polytope(rng, n=3, m=4):
    """Rows G x <= h and bounds around a point, and all vertices."""
    inside, G = rng.normal(size=n), rng.normal(size=(m, n))
    h, width = G @ inside + rng.uniform(0.1, 1, m), rng.uniform(0.5, 2, n)
    lower, upper = inside - width, inside + width
    A, b = np.vstack([G, np.eye(n), -np.eye(n)]), np.concatenate([h, upper, -lower])
    found = []
    for rows in map(list, itertools.combinations(range(len(b)), n)):
        if abs(np.linalg.det(A[rows])) > 1e-9:
            v = np.linalg.solve(A[rows], b[rows])
            found += [v] if (A @ v <= b + 1e-9).all() else []
    return G, h, lower, upper, np.array(found)


@pytest.mark.parametrize("spread", [3, 6, 12])
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 40))])
def test_rows_and_columns_in_any_unit(seed, spread):
    rng = np.random.default_rng(seed)
    G, h, lower, upper, points = polytope(rng)
    rows, columns = 10 ** rng.uniform(-spread, spread, len(h)), 10 ** rng.uniform(-spread, spread, len(lower))
    x, v = cp.Variable(len(lower)), rng.normal(size=(6, len(lower)))
    structure = sst.Structure(
        x, [(rows[:, None] * G / columns) @ x <= rows * h, x <= upper * columns, x >= lower * columns]
    )
    found = structure.argmax(torch.tensor(v / columns)).numpy() / columns
    np.testing.assert_allclose(found, points[(v @ points.T).argmax(1)], atol=1e-7)
    soft = sst.SoftArgmax(structure, sst.Euclidean(weights=1 / columns**2))
    y = cp.Variable(len(lower))
    plain = sst.SoftArgmax(sst.Structure(y, [G @ y <= h, y <= upper, y >= lower]), sst.Euclidean())(torch.tensor(v))
    u = torch.tensor(v / columns)
    try:
        x = soft(u)
    except sst.SolveError:  # told, with the elements
        return
    certified = soft.gap(u, x).abs() < 1e-8  # the layer may be wrong, where the interior point gives up
    np.testing.assert_allclose((x.numpy() / columns)[certified], plain[certified], atol=1e-3)


@pytest.mark.parametrize("unit", [1.0, 1e-8, 1e-9, 1e-10, 1e-12, 1e12])
def test_simplex_in_other_units(unit):
    """fault_06: HiGHS drops coefficients of 1e-9 and less, and argmax left the hull."""
    x, u = cp.Variable(4), torch.tensor([1.0, 0.9, 0.8, 0.1], dtype=torch.float64)
    for integral in (True, False):
        structure = sst.Structure(x, [x >= 0, x <= 1, unit * cp.sum(x) == unit], integral=integral)
        assert structure.argmax(u).tolist() == [1, 0, 0, 0]
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        assert float(soft.gap(u, soft(u, 0.5), 0.5).abs()) < 1e-12


@pytest.mark.parametrize("unit", [1e-12, 1e-8, 1e8])
def test_small_and_large_sets(unit):
    """Entries of 1e-8 are no zeros."""
    u, x = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64), cp.Variable(3)
    box = sst.Structure(x, [x >= 0, x <= unit]).argmax(u) / unit
    torch.testing.assert_close(box, torch.tensor([1.0, 0, 1], dtype=torch.float64), atol=1e-7, rtol=0)
    simplex = sst.Structure(x, [x >= 0, cp.sum(x) <= unit]).argmax(u) / unit
    torch.testing.assert_close(simplex, torch.tensor([1.0, 0, 0], dtype=torch.float64), atol=1e-7, rtol=0)
    ball = sst.Structure(x, [cp.norm(x) <= unit]).argmax(u) / unit
    torch.testing.assert_close(ball, u / u.norm(), atol=1e-7, rtol=0)


def test_far_from_the_origin():
    x, u = cp.Variable(3), torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    structure = sst.Structure(x, [x >= 1e6, x <= 1e6 + 1])
    assert (structure.argmax(u) - 1e6).tolist() == [1, 0, 1]
    torch.testing.assert_close(
        sst.SoftArgmax(structure, sst.Euclidean())(u + 1e6) - 1e6, u.clamp(0, 1), atol=1e-8, rtol=0
    )
    ball = sst.Structure(x, [cp.norm(x - 1e6) <= 1])
    torch.testing.assert_close(ball.argmax(u) - 1e6, u / u.norm(), atol=1e-4, rtol=0)


def test_small_rows_are_no_dependent_ones():
    x, u = cp.Variable(4), torch.tensor([1.0, -1.0, 0.5, 0.2], dtype=torch.float64)
    structure = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2, 1e-11 * (x[0] - x[1]) == 0])
    assert structure.argmax(u).tolist() == [0, 0, 1, 1]
    answer = torch.tensor([0.2, 0.2, 1.0, 0.6], dtype=torch.float64)
    torch.testing.assert_close(sst.SoftArgmax(structure, sst.Euclidean())(u, 0.5), answer, atol=1e-8, rtol=0)
    assert independent_rows(np.array([[1.0, 1, 0], [1e-11, -1e-11, 0], [1e-11, 1e-11, 0], [0, 0, 0]])).size == 2


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_not_finite(bad):
    x, u = cp.Variable(3), torch.randn(3)
    for constraint in (cp.sum(x) <= bad, np.array([1.0, np.nan, 1.0]) @ x <= 1, cp.norm(x) <= np.nan):
        with pytest.raises(ValueError, match="not finite"):
            sst.Structure(x, [x >= 0, x <= 1, constraint]).argmax(u)
    assert sst.Structure(x, [x >= 0, x <= np.inf, cp.sum(x) == 1]).argmax(u).sum() == 1


def test_integers_stay_integers():
    """Big coefficients beside small ones: rows are scaled, and integer columns are not."""
    x = cp.Variable(4)
    rows = [1e9 * (2 * x[0] + 3 * x[1] + 2 * x[2] + 3 * x[3]) <= 4e9, 1e-11 * (x[0] + x[1]) <= 1e-11]
    structure = sst.Structure(x, [x >= 0, x <= 1, *rows], integral=False)
    for u in 3 * torch.rand(20, 4, dtype=torch.float64) - 1:
        points = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
        weights = torch.tensor([2.0, 3, 2, 3], dtype=torch.float64)
        feasible = points[(points @ weights <= 4) & (points[:, 0] + points[:, 1] <= 1)]
        assert torch.equal(structure.argmax(u), feasible[(feasible @ u).argmax()])


def test_gradients_that_are_not_finite_say_so():
    x = cp.Variable(3)
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, cp.sum(x) == 1]), sst.Euclidean())
    u = torch.tensor([[5.0, 0.0, 0.0], [0.1, 0.2, 0.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(sst.SolveError, match="not finite for batch element 0: what was computed from x has no"):
        soft(u).log().sum().backward()


def test_near_ties():
    """HiGHS, warm-started, could not tell whether differences of 1e-8 between utilities count."""
    structure = exclusive_pairs()
    size = 10 ** (-12 * torch.rand(400, 1, dtype=torch.float64))
    u = 1 + size * torch.randn(400, 6, dtype=torch.float64)
    x, again = structure.argmax(u), structure.argmax(u.flip(0)).flip(0)
    assert float((u * (x - again)).sum(1).abs().max()) < 1e-9
