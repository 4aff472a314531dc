"""Compiled pool-adjacent-violators, and SciPy's, against merges in tensors."""

from __future__ import annotations

import importlib.util
import itertools
from fractions import Fraction

import pytest
import torch

import sst_cvx as sst
from polytopes import Permutahedron
from polytopes.kernels import isotonic
from polytopes.kernels.isotonic import PLAIN, entropic_on_permutations, joined_to_last, project_on_permutations
from sst_cvx import native

SIZES = [1, 2, 3, 7, 16, 33, 64, 101]


def cases(n: int) -> torch.Tensor:
    """Normal, tied, constant, sorted and reversed rows."""
    u = torch.randn(12, n, dtype=torch.float64)
    u[2:4], u[4] = u[2:4].round(), 0.1
    u[5], u[6] = u[5].sort().values, u[6].sort(descending=True).values
    return u


def of_both(function, u: torch.Tensor):
    """Values, gradients and second derivatives along random vectors, compiled and in tensors."""
    v, w = torch.randn(2, *u.shape, dtype=torch.float64).to(u.dtype)
    found = []
    for on in (True, False):
        with native.switched(on):
            z = u.clone().requires_grad_()
            x = function(z)
            (g,) = torch.autograd.grad((x * x * v).sum(), z, create_graph=True)
            (h,) = torch.autograd.grad((g * w).sum(), z)
            _, tangent = torch.autograd.functional.jvp(function, u, w)
            (plain,) = torch.autograd.grad(function(z), z, v)
        found.append((x.detach(), g.detach(), h, plain, tangent))
    return zip(*found, strict=True)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("n", SIZES)
def test_blocks(n, scale):
    y = scale * cases(n)
    ones = torch.ones(n, dtype=torch.float64)
    expected = isotonic._joined_by_merges(y, ones, PLAIN)
    assert torch.equal(isotonic._joined_by_scipy(y.view(3, 4, n)), expected.view(3, 4, n))
    with native.switched(True):
        found = joined_to_last(y.view(3, 4, n), ones, PLAIN).view(12, n)
    untied = [0, 1, *range(4, 12)]  # else means of parts are equal, but for rounding in merges
    assert torch.equal(found[untied], expected[untied])


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="compiled kernels need Numba")
@pytest.mark.parametrize("n", [2, 5, 13])
def test_finest_blocks_of_ties(n):
    """In rational numbers: a place begins a block exactly where the sums of y less the regression vanish."""
    y = torch.randint(-2, 3, (60, n)).double()
    with native.switched(True):
        joined = joined_to_last(y, torch.ones(n, dtype=torch.float64), PLAIN)
    for row, mark in zip(y.long().tolist(), joined.tolist(), strict=True):
        sums = [Fraction(0), *itertools.accumulate(map(Fraction, row))]
        regression = [  # the least of the greatest means
            min(max((sums[b] - sums[a]) / (b - a) for b in range(i + 1, n + 1)) for a in range(i + 1)) for i in range(n)
        ]
        rest = [0, *itertools.accumulate(v - x for v, x in zip(row, regression, strict=True))]
        assert mark == [rest[i] != 0 for i in range(n)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("n", SIZES)
def test_projections(n, scale, dtype):
    weights = torch.randn(n, dtype=torch.float64).sort(descending=True).values
    u = (scale * cases(n)).to(dtype)
    for found, expected in of_both(lambda z: project_on_permutations(z, weights), u):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-10, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("n", SIZES)
def test_entropic_ones(n, scale, dtype):
    """Utilities without ties here, where rounding of logarithms says who is joined; some weights are 0, tiny, equal."""
    weights = torch.rand(n, dtype=torch.float64).sort(descending=True).values
    weights[n // 2 : n // 2 + 2], weights[-(n // 4) or n :] = weights[n // 2], 0.0
    u = (scale * torch.randn(12, n, dtype=torch.float64)).to(dtype)
    positive = int((weights > 0).sum())
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11 * (1 + scale)
    for found, expected in of_both(lambda z: entropic_on_permutations(z, weights, positive), u):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_ties_of_entropic_ones():
    """Values are the same, whoever is joined."""
    weights = torch.tensor([3.0, 2.0, 2.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    u = torch.randint(-2, 3, (300, 6)).double()
    (found, expected), *_ = of_both(lambda z: entropic_on_permutations(z, weights, 4), u)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [1e-60, 1e-60, 0.0], [1.0, 1e-300, 1e-300]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_weights_that_vanish(weights, dtype):
    w = torch.tensor(weights, dtype=torch.float64)
    u = torch.randn(5, 3, dtype=dtype)
    for found, expected in of_both(lambda z: entropic_on_permutations(z, w, int((w > 0).sum())), u):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)], ids=str)
def test_batches_and_layouts(shape):
    weights = torch.arange(4.0, dtype=torch.float64).flip(0)
    u = torch.randn(4, *shape, dtype=torch.float64).movedim(0, -1)
    assert u.shape == (*shape, 4)
    for function in (project_on_permutations, lambda z, w: entropic_on_permutations(z, w, 3)):
        for found, expected in of_both(lambda z, f=function: f(z, weights), u):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_batched_cotangents_and_forward_mode():
    for f in (sst.Euclidean(), sst.CategoricalEntropy()):
        soft = sst.SoftArgmax(Permutahedron(torch.arange(5)), f)
        u = torch.randn(5, dtype=torch.float64)
        (expected,) = torch.autograd.functional.jacobian(soft, (u,))
        vectorized = torch.autograd.functional.jacobian(soft, u, vectorize=True)
        forwards = torch.autograd.functional.jacobian(soft, u, vectorize=True, strategy="forward-mode")
        for found in (vectorized, forwards, torch.func.jacrev(soft)(u), torch.func.jacfwd(soft)(u)):
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(expected, expected.T)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_guard_agrees_with_majorisation(n):
    structure = Permutahedron(torch.randn(n))
    x = sst.SoftArgmax(structure, sst.Euclidean())(torch.randn(6, n, dtype=torch.float64), 0.3)
    off = x.clone()
    off[0, 0] += 1e-3
    assert structure.surely_within(x, 1e-6)
    for wrong in (off, x - 1e-3, x.where(x != x.max(), torch.nan)):
        assert not structure.surely_within(wrong, 1e-6)
        assert not bool((structure.violation(wrong) <= 1e-6).all())
    with sst.guard("nan"):
        assert not structure.surely_within(x, 1e-6)
