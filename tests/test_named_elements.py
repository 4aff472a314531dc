"""Errors name the elements of the caller's batch, forward and backward, however the batch was split."""

from unittest import mock

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.errors import Elements
from sst_cvx.paths.interior_point.path import InteriorPointPath
from sst_cvx.paths.interior_point.polytope import Polytope
from sst_cvx.paths.layer.diffcp_engine import DiffcpSolver
from tests.hulls import pairs


def test_elements_of_parts_of_parts():
    whole = Elements(torch.Size([2, 3]))
    part = whole.take(torch.tensor([5, 3, 1])).take(torch.tensor([2, 0]))
    assert [part.index(0), part.index(1)] == [(0, 1), (1, 2)]
    assert part.error("{elements}", [1]).elements == ((1, 2),)
    flat = sst.SolveError("no luck with {elements}", [0])
    renamed = part.rename(flat)
    assert renamed.elements == ((0, 1),)
    assert part.rename(renamed) is renamed  # named once
    assert "(0, 1)" in str(renamed)
    assert Elements(torch.Size([])).index(0) == ()


def test_gradients_of_faces(monkeypatch):
    """Masks split the batch; the wrong gradient is of one face's element."""
    true = DiffcpSolver._differentiate

    def wrong(self, dx, dy, state):
        dP, dc, dA, db = true(self, dx, dy, state)
        if len(dc) == 2:
            dc[1] *= -50
        return dP, dc, dA, db

    monkeypatch.setattr(DiffcpSolver, "_differentiate", wrong)
    soft = sst.SoftArgmax(pairs(), sst.Euclidean(), path="layer")
    mask = torch.ones(2, 2, 6, dtype=torch.bool)
    mask[0, 1, 0] = mask[1, 1, 0] = False  # elements 1 and 3 share a face, 0 and 2 the whole
    mask[1, 0, 3] = False  # ... but 2 has its own
    u = torch.randn(2, 2, 6, requires_grad=True)
    with pytest.raises(sst.SolveError, match="gradient is wrong") as caught:
        soft(u, mask=mask).square().sum().backward()
    assert caught.value.elements == ((1, 1),)


def test_what_is_handed_over_to_the_layer(monkeypatch):
    """Forward and backward of elements that the interior-point solver gives up."""
    true_solve, true_derivative = Polytope.__call__, DiffcpSolver._differentiate

    def gives_up(self, u, t, values, elements):
        x, right = true_solve(self, u, t, values, elements)
        right = right.clone()
        right[[1, 4]] = False
        return x, right

    def wrong(self, dx, dy, state):
        dP, dc, dA, db = true_derivative(self, dx, dy, state)
        dc[1] *= -50
        return dP, dc, dA, db

    monkeypatch.setattr(Polytope, "__call__", gives_up)
    soft = sst.SoftArgmax(pairs(), sst.Euclidean())
    u = torch.randn(2, 3, 6, requires_grad=True)
    right = sst.SoftArgmax(pairs(), sst.Euclidean(), path="layer")
    with mock.patch.object(
        InteriorPointPath, "_hand_over", autospec=True, side_effect=InteriorPointPath._hand_over
    ) as handed:
        torch.testing.assert_close(soft(u), right(u), atol=1e-6, rtol=0)
    assert handed.call_count == 1
    monkeypatch.setattr(DiffcpSolver, "_differentiate", wrong)
    with pytest.raises(sst.SolveError, match="gradient is wrong") as caught:
        soft(u).square().sum().backward()
    assert caught.value.elements == ((1, 1),)
    cold = u.detach() * 1e5
    with pytest.raises(sst.SolveError, match="did not converge") as caught:
        soft(cold)
    assert caught.value.elements == ((0, 1), (1, 1))


def test_infeasible_parameters_among_masks_and_chunks():
    x, capacity = cp.Variable(3), cp.Parameter(nonneg=True, name="capacity")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == capacity]), sst.CategoricalEntropy())
    values = torch.tensor([[1.0, 2.0, 9.0], [0.5, 7.0, 1.0]])
    with pytest.raises(sst.SolveError) as caught:
        soft(torch.randn(2, 3, 3), capacity=values)
    assert caught.value.elements == ((0, 2), (1, 1))
    with pytest.raises(sst.SolveError) as caught:
        soft.structure.argmax(torch.randn(2, 3, 3), capacity=values)
    assert caught.value.elements == ((0, 2), (1, 1))


@pytest.mark.parametrize("path", ["fast", "active_set", "interior_point", "layer"])
def test_entries_that_are_not_finite(path):
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean(), path=path)
    u, mask = torch.zeros(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    u[1, 2, 3] = torch.nan
    mask[:, 1, 0] = False  # splits the batch where the path takes no masks
    for keywords in ({}, {"mask": mask}):
        with pytest.raises(ValueError, match=r"utilities must be finite, but entry \(1, 2, 3\) is nan"):
            soft(u, 0.5, **keywords)
    mask[1, 2, 3] = False
    assert bool(torch.isfinite(soft(u, 0.5, mask=mask)).all())


@pytest.mark.parametrize("keyword", ["temprature", "capacity"])
@pytest.mark.parametrize("path", ["fast", "active_set", "interior_point", "layer"])
def test_unknown_keywords_do_not_vanish(path, keyword):
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean(), path=path)
    u, mask = torch.zeros(4), torch.ones(4, dtype=torch.bool)
    x = soft(u)
    for call in (
        lambda: soft(u, **{keyword: 0.01}),
        lambda: soft(u, mask=mask, **{keyword: 0.01}),
        lambda: soft.gap(u, x, **{keyword: 0.01}),
        lambda: soft.gap(u, x, mask=mask, **{keyword: 0.01}),
    ):
        with pytest.raises(TypeError, match=keyword):
            call()


@pytest.mark.parametrize("structure", [pairs(), *polytopes.EXAMPLES], ids=repr)
def test_unknown_keywords_of_argmax(structure):
    with pytest.raises(TypeError, match="temprature"):
        structure.argmax(torch.zeros(structure.event_shape), temprature=0.01)
