"""Derivatives by torch's older ways: batched backward passes (the older vmap), and forward mode by dual numbers."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import polytopes
import sst_cvx as sst
from polytopes.kernels.threshold import SEARCHABLE
from tests.inside.table import FAST, SOME, some

#: And what works in place, or differentiates inside.
QUICK = SOME | {
    "CorrelatedKSubset(n=5, k=2)-ExponentialFamilyEntropy()",
    "Arborescence(n=4, edges=9, root=1)-ExponentialFamilyEntropy()",
    "Segment(n=6, min_length=2, max_length=3)-ExponentialFamilyEntropy()",
    "Matching(n=2, m=3)-ExponentialFamilyEntropy()",
    "MatroidBases.graphic(6 vertices, 7 edges)-ExponentialFamilyEntropy()",
}


@pytest.mark.parametrize(("structure", "f"), some(FAST, QUICK))
def test_jacobians_and_hessians(structure, f):
    soft, functional = sst.SoftArgmax(structure, f), torch.autograd.functional
    u = torch.randn(structure.event_shape, dtype=torch.float64)
    expected = functional.jacobian(soft, u)
    for strategy in ("reverse-mode", "forward-mode"):
        found = functional.jacobian(soft, u, vectorize=True, strategy=strategy)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)

    def loss(v):
        return soft(v).pow(3).sum()

    found = functional.hessian(loss, u, vectorize=True)
    torch.testing.assert_close(found, functional.hessian(loss, u), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("structure", "f"), some(FAST, QUICK))
def test_dual_numbers(structure, f):
    """Their Jacobians are symmetric: along a tangent as along a cotangent."""
    soft = sst.SoftArgmax(structure, f)
    u, along = torch.randn(2, 2, *structure.event_shape, dtype=torch.float64)
    v = u.clone().requires_grad_()
    x = soft(v, 0.7)
    (expected,) = torch.autograd.grad((x * along).sum(), v)
    for mode in (torch.no_grad, torch.enable_grad):
        with forward_ad.dual_level(), mode():
            value, tangent = forward_ad.unpack_dual(soft(forward_ad.make_dual(u, along), 0.7))
        torch.testing.assert_close(value, x.detach(), atol=1e-12, rtol=0)
        torch.testing.assert_close(tangent, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("f", [kind() for kind in SEARCHABLE if kind is not sst.CategoricalEntropy], ids=repr)
def test_another_derivative_of_batched_gradients(f):
    structure = polytopes.KSubset(5, 2)
    soft, u = sst.SoftArgmax(structure, f), torch.randn(5, dtype=torch.float64, requires_grad=True)
    batched = torch.autograd.functional.jacobian(soft, u, create_graph=True, vectorize=True).pow(3).sum()
    plain = torch.autograd.functional.jacobian(soft, u, create_graph=True).pow(3).sum()
    (found,), (expected,) = (torch.autograd.grad(y, u, allow_unused=True) for y in (batched, plain))
    torch.testing.assert_close(found, expected)


def test_where_there_is_none_it_is_refused():
    soft = sst.SoftArgmax(polytopes.CorrelatedKSubset(5, 2), sst.ExponentialFamilyEntropy())
    u = torch.randn(9, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotImplementedError, match="batched gradients are not differentiable again"):
        torch.autograd.functional.jacobian(soft, u, create_graph=True, vectorize=True)
