"""Gradients by hull parameters where a bound closes: one of the one-sided derivatives, never something between."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from tests.paths.interior_point.table import REGULARIZERS

each = pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
CAPS = (0.0, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-3)


def jacobian(soft: sst.SoftArgmax, u: torch.Tensor, t: float, **values: torch.Tensor) -> torch.Tensor:
    """Of x by the only parameter."""
    (name, value), *_ = values.items()
    return torch.autograd.functional.jacobian(lambda p: soft(u, t, **{name: p}), value)


@each
@pytest.mark.parametrize("t", [1.0, 0.1, 0.01])
def test_caps(f, t, never_the_layer):
    """x_i = min(cap_i, phi'^-1(u_i / t)): an item at its cap moves with it, however small the cap."""
    x, cap = cp.Variable(3), cp.Parameter(3, name="cap")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= cap]), f)
    u = torch.tensor([[1.5, 0.3, -0.2]], dtype=torch.float64).expand(len(CAPS), 3)
    caps = torch.tensor([[c, 0.4, 1.0] for c in CAPS], dtype=torch.float64, requires_grad=True)
    y = soft(u, t, cap=caps)
    free = (u / t if isinstance(f, sst.Euclidean) else f.inverse_slope(u / t)).clamp(min=0)
    torch.testing.assert_close(y, torch.minimum(caps, free), atol=1e-12, rtol=0)
    (g,) = torch.autograd.grad(y.sum(), caps)
    torch.testing.assert_close(g, (caps < free).double(), atol=1e-9, rtol=0)


@each
def test_a_lower_bound_that_meets_the_upper_one(f):
    """From above x is pushed down, from below it is pulled up: the bound that it leans on counts."""
    x, low = cp.Variable(2), cp.Parameter(2, name="low")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= low, x <= 0.5]), f)
    u, low = torch.tensor([-9.0, 9.0], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(jacobian(soft, u, 1.0, low=low), expected)


@each
@pytest.mark.parametrize("b", CAPS)
def test_a_capacity(f, b):
    """sum x = b: for small b all of it goes to the best item, or (entropies) by softmax(u / t)."""
    x, capacity = cp.Variable(3), cp.Parameter(name="capacity")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity]), f)
    u, t = torch.tensor([0.4, 1.5, 0.8], dtype=torch.float64), 0.5
    found = jacobian(soft, u, t, capacity=torch.tensor(b, dtype=torch.float64))
    one = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    truth = (u / t).softmax(0) if f.steep[0] else one
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(found, truth, atol=1e-5 + (2 * b if f.steep[1] else 0.0), rtol=0)


@each
@pytest.mark.parametrize("relation", ["==", "<="])
def test_a_whole_number_of_items(f, relation):
    """Cold, at a vertex: more capacity goes to the next item, less is taken from the last."""
    x, k = cp.Variable(5), cp.Parameter(name="k")
    total = cp.sum(x) == k if relation == "==" else cp.sum(x) <= k
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, total]), f)
    u, t = torch.tensor([0.3, 3.0, 0.9, 0.1, 2.0], dtype=torch.float64), 0.01
    found = jacobian(soft, u, t, k=torch.tensor(2.0, dtype=torch.float64))
    if f.steep[1]:
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-6)
        return
    next_, last = torch.eye(5, dtype=torch.float64)[[2, 4]]
    assert min(float((found - d).abs().max()) for d in (next_, last)) < 1e-6
    leaf = u.clone().requires_grad_()
    (g,) = torch.autograd.grad(soft(leaf, t, k=2.0)[2], leaf)
    assert float(g.abs().max()) < 1e-12  # in u it is smooth here


@each
def test_flows_through_a_gate_that_closes(f):
    """Auxiliary columns: x <= z, 0 <= z <= gate."""
    x, z, gate = cp.Variable(2), cp.Variable(2), cp.Parameter(2, name="gate")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, x <= z, z >= 0, z <= gate]), f)
    u = torch.tensor([0.9, 2.0], dtype=torch.float64)
    for closed in (0.0, 1e-9, 1e-4):
        found = jacobian(soft, u, 0.1, gate=torch.tensor([closed, 0.3], dtype=torch.float64))
        torch.testing.assert_close(found, torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
