"""The threshold search in float32, at shared offsets, and where it is slow."""

from __future__ import annotations

import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels import threshold
from polytopes.kernels.threshold import SEARCHABLE, solve_threshold, threshold_map
from tests.oracles import bisection

REGULARIZERS = [kind() for kind in SEARCHABLE]


def error_in_float32(structure: sst.Structure, f: sst.Regularizer, u: torch.Tensor) -> float:
    """Of the answer to float32 utilities, against that to the same numbers in float64."""
    soft = sst.SoftArgmax(structure, f)
    return float((soft(u).double() - soft(u.double())).abs().max())


@pytest.mark.parametrize("offset", [100.0, 1e4, -1e6])
@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("kind", [polytopes.KSubset, polytopes.AtMostKSubset])
def test_a_shared_offset_costs_no_digits(kind, f, offset):
    assert error_in_float32(kind(10, 3), f, torch.randn(2000, 10) + offset) < 1e-6


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
@pytest.mark.parametrize(("n", "k"), [(50, 49), (60, 20), (500, 200), (5000, 2000)])
def test_one_fractional_entry_does_not_bear_the_rounding_of_all(f, n, k):
    u = torch.randn(20, n) * n / 4  # entries about 1 apart: one or two are fractional
    assert error_in_float32(polytopes.KSubset(n, k), f, u) < 3e-7
    assert error_in_float32(polytopes.KSubset(n, k), f, 4 * u / n) < 1e-6  # many are


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_utilities_as_far_apart_as_float32_goes(f):
    u = torch.tensor([3e38, -3e38, 1e38, 0.0, -1e38, 2e38])
    u = torch.stack([u, -u, u.flip(0)])
    for k in range(1, 6):
        structure = polytopes.KSubset(6, k)
        assert torch.equal(sst.SoftArgmax(structure, f)(u), structure.argmax(u))


@pytest.mark.parametrize("alpha", [1.01, 1.1])
def test_where_newton_is_slow(alpha, monkeypatch):
    """phi'^-1 is a high power: many steps, halvings among them, to the same answer as from halvings alone."""
    u, f, steps = 40 * torch.randn(50, 12, dtype=torch.float64), sst.TsallisEntropy(alpha), []
    monkeypatch.setattr(type(f), "unit_inverse_curvature", counted(type(f).unit_inverse_curvature, steps))
    x, nu = solve_threshold(u, 3, f)
    assert len(steps) > 12
    low, high = u.amin(-1, keepdim=True) - 1 / (alpha - 1), u.amax(-1, keepdim=True)
    for _ in range(200):
        middle = 0.5 * (low + high)
        over = f.unit_inverse_slope(u - middle).sum(-1, keepdim=True) > 3
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    torch.testing.assert_close(x, f.unit_inverse_slope(u - low), rtol=0, atol=1e-9)
    torch.testing.assert_close(f.unit_inverse_slope(u - nu), x, rtol=0, atol=1e-9)


def counted(method, calls):
    def call(self, x):
        calls.append(1)
        return method(self, x)

    return call


@pytest.mark.parametrize("f", [sst.Euclidean(), sst.TsallisEntropy(1.5)], ids=repr)
@pytest.mark.parametrize(("n", "k"), [(5, 1), (20, 1), (20, 7), (50, 49)])
def test_sorting_is_the_search(f, n, k, monkeypatch):
    u = 3 * torch.randn(200, n, dtype=torch.float64)
    u[:50] = u[:50].round()  # ties
    sorted_ = threshold_map(u, k, f)
    monkeypatch.setattr(threshold, "_SORTABLE", 0)
    torch.testing.assert_close(sorted_, threshold_map(u, k, f), rtol=0, atol=1e-12)
    torch.testing.assert_close(sorted_, bisection(u, k, type(f).__name__), rtol=0, atol=1e-12)
