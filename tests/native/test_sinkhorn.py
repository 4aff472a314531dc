"""Compiled perfect matchings against Newton's method in tensors."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import sst_cvx as sst
from polytopes import Matching
from polytopes.kernels import matching_newton, sinkhorn
from polytopes.kernels.sinkhorn import doubly_stochastic
from sst_cvx import native

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="compiled kernels need Numba")


def answers(u: torch.Tensor, v: torch.Tensor):
    """X, its pullback of v, and one of a second order, compiled and in tensors."""
    found = []
    for on in (True, False):
        with native.switched(on):
            z = u.clone().requires_grad_()
            x = doubly_stochastic(z)
            (g,) = torch.autograd.grad(x, z, v, retain_graph=True)
            (h,) = torch.autograd.grad(x, z, v, create_graph=True)
            (h,) = torch.autograd.grad((h * v).sum(), z)
            _, tangent = torch.autograd.functional.jvp(doubly_stochastic, u, v)
            found.append((x.detach(), g, h, tangent))
    return zip(*found, strict=True)


def utilities(kind: str, batch: int, n: int) -> torch.Tensor:
    if kind == "rank one":
        return torch.randn(batch, n, 1, dtype=torch.float64) * torch.randn(batch, 1, n, dtype=torch.float64)
    u = torch.randn(batch, n, n, dtype=torch.float64)
    return u.round() if kind == "integer" else u


@pytest.mark.parametrize("kind", ["normal", "integer", "rank one"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 21])
def test_as_in_tensors(n, scale, kind, monkeypatch):
    u, v = scale * utilities(kind, 8, n) + 1e3, torch.randn(8, n, n, dtype=torch.float64)
    with native.switched(True), monkeypatch.context() as patch:
        patch.setattr(sinkhorn, "solve", None)  # the compiled solver gives none of them up
        x = doubly_stochastic(u)
    assert float((x.sum(-1) - 1).abs().max()) < 1e-13
    assert float((x.sum(-2) - 1).abs().max()) < 1e-13 * (1 + scale) * n
    tolerance = 1e-11 * (1 + scale)
    for found, expected in answers(u, v):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [2, 9])
def test_float32(n):
    u, v = 5 * torch.randn(2, 4, n, n)
    for found, expected in answers(u, v):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("limits", [(4, 4, 16.0), (0, 0, 16.0), (0, 0, 0.0)])
def test_larger_ones_try_plain_steps_first(limits, scale, monkeypatch):
    """With each limit as if 12 columns were many: what plain steps leave is Newton's, in tensors."""
    for name, limit in zip(("_SMALL", "_SMALL_BACKWARD", "_NEAR"), limits, strict=True):
        monkeypatch.setattr(sinkhorn, name, limit)
    u, v = scale * utilities("normal", 6, 12), torch.randn(6, 12, 12, dtype=torch.float64)
    u[0] = 0.1 * u[0]
    for found, expected in answers(u, v):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_low_temperatures():
    """Spreads of up to 1e6, where all but the assignment vanishes, or ties are shared."""
    u = 1e5 * torch.randn(6, 10, 10, dtype=torch.float64).clamp(-2, 2)
    u[3:] = (u[3:] / 1e5).round() * 1e5
    for found, expected in list(answers(u, torch.randn_like(u)))[:2]:
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-8)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)], ids=str)
def test_batches_and_layouts(shape):
    u, v = torch.randn(2, 3, 4, 4, *shape, dtype=torch.float64).movedim((2, 3), (-2, -1))[:, 0]
    for found, expected in answers(u.mT, v):
        assert found.shape == (*shape, 4, 4)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_what_does_not_converge_is_told_by_the_twin(monkeypatch):
    u = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    u[1, 0] = 100 * torch.randn(3, 3)
    monkeypatch.setattr(matching_newton, "_MAX_STEPS", 1)
    with native.switched(True), pytest.raises(sst.SolveError, match="did not converge") as caught:
        sst.SoftArgmax(Matching(3), sst.CategoricalEntropy())(u)
    assert caught.value.elements == ((1, 0),)
    monkeypatch.undo()
    u[0, 1, 0, 0] = 1e9
    with native.switched(True), pytest.raises(sst.SolveError, match="range over more than") as caught:
        sst.SoftArgmax(Matching(3), sst.CategoricalEntropy())(u)
    assert caught.value.elements == ((0, 1),)


def test_batched_cotangents():
    u = torch.randn(4, 4, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(doubly_stochastic, u)
    for found in (
        torch.autograd.functional.jacobian(doubly_stochastic, u, vectorize=True),
        torch.func.jacrev(doubly_stochastic)(u),
        torch.func.jacfwd(doubly_stochastic)(u),
    ):
        torch.testing.assert_close(found, expected)
