"""Compiled threshold maps against their twins in tensors."""

from __future__ import annotations

import pytest
import torch

import sst_cvx as sst
from polytopes.kernels.threshold import SEARCHABLE, threshold_map, threshold_map_up_to
from sst_cvx import native

pytest.importorskip("numba")

REGULARIZERS = [*[kind() for kind in SEARCHABLE], *[sst.TsallisEntropy(alpha) for alpha in (2.0, 1.2, 1.05)]]
SIZES = [(1, 1), (2, 1), (5, 1), (7, 3), (60, 59), (250, 1), (250, 80)]


def draw(n: int, scale: float, dtype: torch.dtype, ties: bool) -> torch.Tensor:
    u = torch.randn(8, n, dtype=dtype)
    spread = u.sign() * u.abs() ** 3
    return scale * torch.cat([u, spread, (2 * u).round() / 2, u * 0 + 0.3] if ties else [u, spread])


def both(function, u, v, *rest):
    """Values and pullbacks, compiled and not."""
    found = []
    for on in (True, False):
        w = u.clone().requires_grad_()
        with native.switched(on):
            x = function(w, *rest)
            found.append((x.detach(), torch.autograd.grad(x, w, v)[0]))
    return found


@pytest.mark.parametrize("function", [threshold_map, threshold_map_up_to])
@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_same_answers(function, f, dtype):
    tolerance = 1e-11 if dtype == torch.float64 else 2e-6
    for n, total in SIZES:
        for scale in (1.37e-2, 1.03, 30.7, 1e30):
            for ties in (True, False):
                u = draw(n, scale, dtype, ties)
                (x, g), (right, slope) = both(function, u, torch.randn_like(u), total, f)
                torch.testing.assert_close(x, right, rtol=0, atol=tolerance)
                if not ties:  # kinks
                    kinked = isinstance(f, sst.TsallisEntropy) and dtype == torch.float32  # x^(2 - alpha) at rounding
                    torch.testing.assert_close(g, slope, rtol=0, atol=1e-3 if kinked else 10 * tolerance)


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_many_entries(f):
    """Where samples of the entries say where to start."""
    u = torch.randn(2, 9_000, dtype=torch.float64)
    for total in (1, 700, 8_999):
        for scale in (0.1, 10.0):
            (x, g), (right, slope) = both(threshold_map, scale * u, torch.randn_like(u), total, f)
            torch.testing.assert_close(x, right, rtol=0, atol=1e-11)
            torch.testing.assert_close(g, slope, rtol=0, atol=1e-10)


@pytest.mark.parametrize("function", [threshold_map, threshold_map_up_to])
@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_second_derivatives_and_tangents(function, f):
    u = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    v = torch.randn_like(u)
    assert torch.autograd.gradcheck(lambda w: function(w, 2, f), u, check_forward_ad=True)

    def second():
        (g,) = torch.autograd.grad(function(u, 2, f), u, v, create_graph=True)
        return torch.autograd.grad(g, u, v)[0] if g.requires_grad else torch.zeros_like(u)

    with native.switched(False):
        right = second()
    torch.testing.assert_close(second(), right, rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", [threshold_map, threshold_map_up_to])
def test_shapes(function):
    f, whole = sst.Euclidean(), torch.randn(2, 3, 4, 10, dtype=torch.float64)
    views = [whole[..., 0], whole[0, 0, 0], whole[:0], whole.mT, whole.expand(2, 2, 3, 4, 10), whole.float()[:, :, ::2]]
    for u in views:
        for total in (1, 2):
            (x, g), (right, slope) = both(function, u, torch.randn_like(u), total, f)
            torch.testing.assert_close(x, right, rtol=0, atol=1e-6)
            torch.testing.assert_close(g, slope, rtol=0, atol=1e-5)
            assert (x.shape, x.dtype) == (u.shape, u.dtype)


def test_cotangents_that_are_not_finite_stay_so():
    u = torch.randn(2, 5, dtype=torch.float64)
    v = torch.full_like(u, torch.nan)
    for _, g in both(threshold_map, u, v, 2, sst.BinaryEntropy()):
        assert bool(g.isnan().all())
