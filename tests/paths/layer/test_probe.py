"""Gradients by hull parameters that the layer returns are held against its own answers."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from sst_cvx.paths.layer.path import LayerPath


def capped() -> sst.Structure:
    x, up = cp.Variable(3), cp.Parameter(3, name="up")
    return sst.Structure(x, [x >= 0, x <= up])


@pytest.mark.parametrize("f", [sst.CategoricalEntropy(), sst.BinaryEntropy()], ids=repr)
def test_small_caps_are_right_or_refused(f):
    """It was -10.9 and -5.5 where it is 1."""
    soft, u = sst.SoftArgmax(capped(), f, path="layer"), torch.tensor([[1.5, 0.3, -0.2]] * 2, dtype=torch.float64)
    up = torch.tensor([[0.1, 0.4, 1.0], [1e-10, 0.4, 1.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(sst.SolveError, match="gradient by the hull's parameters is wrong for batch element 1"):
        torch.autograd.grad(soft(u, 0.1, up=up).sum(), up)
    (g,) = torch.autograd.grad(soft(u[:1], 0.1, up=up[:1]).sum(), up)
    assert g[0].tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-6)


def test_a_gradient_of_zero_where_there_is_one(monkeypatch):
    x, radius = cp.Variable(3), cp.Parameter(nonneg=True, name="radius")
    soft = sst.SoftArgmax(sst.Structure(x, [cp.norm(x) <= radius, x >= -2, x <= 2]), sst.Euclidean())
    assert soft.path == "layer"
    u, r = torch.tensor([1.0, 2.0, -0.5]).double(), torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((soft(u, radius=r) * u).sum(), r)
    assert float(g) == pytest.approx(float(u.norm()), abs=1e-6)
    true = LayerPath._probe

    def silent(self, *inputs):
        probe = true(self, *inputs)
        check = probe.check
        probe.check = lambda parameters, gradients: check(parameters, [0 * g for g in gradients])
        return probe

    monkeypatch.setattr(LayerPath, "_probe", silent)
    with pytest.raises(sst.SolveError, match="not the slope"):
        torch.autograd.grad((soft(u, radius=r) * u).sum(), r)


def test_ends_of_ranges_are_judged_from_one_side():
    """radius = 0: only outwards."""
    x, radius = cp.Variable(2), cp.Parameter(nonneg=True, name="radius")
    soft = sst.SoftArgmax(sst.Structure(x, [cp.norm(x, 1) <= radius]), sst.Euclidean(), path="layer")
    u = torch.tensor([1.0, 0.2]).double()
    for value in (0.5, 1e-6):
        r = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(soft(u, 1.0, radius=r)[0], r)
        assert float(g) == pytest.approx(1.0, abs=1e-4)
