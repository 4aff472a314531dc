"""Gradients that cannot be had are refused, and the errors name the caller's elements, however the batch was split."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from sst_cvx import native
from sst_cvx.paths.interior_point import interior, polytope, tolerances
from sst_cvx.paths.interior_point.kkt import ActiveSystem
from tests.hulls import pairs

LOUD = 1e3  # the cotangent of the element that goes wrong


def loud(v: torch.Tensor) -> torch.Tensor:
    """Which rows of a batch, however split, hold the element."""
    return v.abs().amax(1) > LOUD / 10


@pytest.fixture
def unsolvable(monkeypatch):
    """KKT systems of one element that cannot be solved."""
    true = ActiveSystem.solve_surely

    def solve_surely(self, p, q, unit):
        dw, dy, error = true(self, p, q, unit)
        return dw, dy, torch.where(loud(p), torch.inf, error)

    monkeypatch.setattr(ActiveSystem, "solve_surely", solve_surely)


@pytest.fixture(autouse=True)
def by_tensors():
    """What is replaced here is tensor code."""
    with native.switched(False):
        yield


@pytest.fixture
def wrong(monkeypatch):
    """Gradients of one element that break the bound."""
    true = polytope.differentiate

    def differentiate(model, x, t, side, cotangent, elements, *others, **named):
        found = true(model, x, t, side, cotangent, elements, *others, **named)
        found.dw = torch.where(loud(cotangent)[:, None], -50 * found.p, found.dw)
        return found

    monkeypatch.setattr(polytope, "differentiate", differentiate)


@pytest.fixture
def gives_up(monkeypatch):
    """The interior-point solver gives up elements with a utility of 2; returns how many it gave up."""
    true, count = interior.solve, []

    def solve(model, problem, start):
        answer, converged = true(model, problem, start)
        given = problem.linear.amax(1) == problem.linear[:, 0]  # utilities come scaled: the first item is the best
        count.append(int(given.sum()))
        return answer, converged & ~given

    monkeypatch.setattr(interior, "solve", solve)
    return count


def backward(
    soft: sst.SoftArgmax, element: tuple[int, ...], u: torch.Tensor, **keywords: torch.Tensor
) -> sst.SolveError:
    """The error of the backward where the cotangent of one element is loud."""
    v = torch.ones_like(u)
    v[element] = LOUD * torch.randn(u[element].shape, dtype=u.dtype)
    leaf = u.clone().requires_grad_()
    x = soft(leaf, 0.5, **keywords)
    with pytest.raises(sst.SolveError) as caught:
        (x * v).sum().backward()
    return caught.value


def test_unsolvable(unsolvable):
    u = torch.randn(2, 3, 6, dtype=torch.float64)
    error = backward(sst.SoftArgmax(pairs(), sst.BinaryEntropy()), (1, 0), u)
    assert error.elements == ((1, 0),)
    assert "KKT system that gives the gradient could not be solved for batch element (1, 0)" in str(error)


def test_wrong(wrong):
    u = torch.randn(2, 3, 6, dtype=torch.float64)
    error = backward(sst.SoftArgmax(pairs(), sst.BinaryEntropy()), (0, 2), u)
    assert error.elements == ((0, 2),)
    assert "gradient is wrong for batch element (0, 2)" in str(error)


@pytest.mark.parametrize("how", ["unsolvable", "wrong"])
def test_chunks(how, request, monkeypatch):
    soft, u = sst.SoftArgmax(pairs(), sst.BinaryEntropy()), torch.randn(2, 3, 6, dtype=torch.float64)
    whole, sizes, true = soft(u, 0.5), [], interior.solve

    def solve(model, problem, start):
        sizes.append(len(start))
        return true(model, problem, start)

    monkeypatch.setattr(interior, "solve", solve)
    monkeypatch.setattr(tolerances, "CHUNK", 100)
    torch.testing.assert_close(soft(u, 0.5), whole, atol=1e-12, rtol=0)
    assert max(sizes) < 6
    assert sum(sizes) == 6
    request.getfixturevalue(how)
    assert backward(soft, (1, 1), u).elements == ((1, 1),)


@pytest.mark.parametrize("how", ["unsolvable", "wrong"])
def test_beside_elements_that_went_to_the_layer(how, request, gives_up):
    soft, u = sst.SoftArgmax(pairs(), sst.Euclidean()), torch.randn(2, 3, 6, dtype=torch.float64)
    u[..., 0] = -3
    u[0, 1, 0] = u[1, 0, 0] = 3
    request.getfixturevalue(how)
    assert backward(soft, (1, 2), u).elements == ((1, 2),)
    assert gives_up == [2]


@pytest.mark.parametrize("how", ["unsolvable", "wrong"])
def test_masks(how, request):
    soft, u = sst.SoftArgmax(pairs(), sst.BinaryEntropy()), torch.randn(2, 3, 6, dtype=torch.float64)
    mask = torch.ones(2, 3, 6, dtype=torch.bool)
    mask[0, 1, 4] = mask[1, 0, 4] = mask[1, 2, 4] = False  # one face
    mask[1, 1, 0] = False  # another
    request.getfixturevalue(how)
    for element in ((1, 0), (1, 1), (0, 0)):
        assert backward(soft, element, u, mask=mask).elements == (element,)


@pytest.mark.parametrize("how", ["unsolvable", "wrong"])
def test_masks_chunks_and_the_layer(how, request, gives_up, monkeypatch):
    soft, u = sst.SoftArgmax(pairs(), sst.Euclidean()), torch.randn(4, 3, 6, dtype=torch.float64)
    u[..., 0], mask = -3, torch.ones(4, 3, 6, dtype=torch.bool)
    u[2, :2, 0] = 3
    mask[1:, :, 4] = False
    monkeypatch.setattr(tolerances, "CHUNK", 1)
    request.getfixturevalue(how)
    assert backward(soft, (3, 1), u, mask=mask).elements == ((3, 1),)
    assert sum(gives_up) == 2
    assert len(gives_up) == 12


def test_parameters(unsolvable):
    x, budget = cp.Variable(4), cp.Parameter(name="budget")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= budget]), sst.Euclidean())
    u, values = torch.randn(3, 2, 4, dtype=torch.float64), torch.tensor([1.0, 2.0]).double()
    assert backward(soft, (2, 1), u, budget=values).elements == ((2, 1),)


def test_second_derivatives(unsolvable):
    soft, u = sst.SoftArgmax(pairs(), sst.BinaryEntropy()), torch.randn(2, 3, 6, dtype=torch.float64)
    leaf = u.clone().requires_grad_()
    (g,) = torch.autograd.grad(soft(leaf, 0.5).square().sum(), leaf, create_graph=True)
    v = torch.ones_like(g)
    v[0, 1] *= LOUD
    with pytest.raises(sst.SolveError, match="could not be solved") as caught:
        (g * v).sum().backward()
    assert caught.value.elements == ((0, 1),)


def test_given_up_elements_get_no_gradient_here(gives_up, monkeypatch):
    """Theirs comes from the layer alone: with the layer's cut off, it is zero, and that of others as ever."""
    soft, u = sst.SoftArgmax(pairs(), sst.Euclidean()), torch.randn(3, 6, dtype=torch.float64)
    u[:, 0] = torch.tensor([-3.0, 3.0, -3.0])
    path = soft._path
    layer = type(path._layer)
    true = layer.answer
    monkeypatch.setattr(layer, "answer", lambda self, batch: true(self, batch).detach())
    leaf = u.clone().requires_grad_()
    (g,) = torch.autograd.grad(soft(leaf).square().sum(), leaf)
    assert gives_up == [1]
    monkeypatch.undo()
    leaf = u.clone().requires_grad_()
    (truth,) = torch.autograd.grad(soft(leaf).square().sum(), leaf)
    assert float(truth[1].abs().max()) > 1e-3
    assert bool((g[1] == 0).all())
    torch.testing.assert_close(g[[0, 2]], truth[[0, 2]], atol=1e-12, rtol=0)
