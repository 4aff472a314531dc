"""return_info: what is told of each element, on every path; multipliers against CVXPY's."""

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import k_subset, random_polytope

TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}


def declared_ball() -> sst.Structure:
    x = cp.Variable(3)
    return sst.Structure(x, [cp.norm(x) <= 1, x >= -0.4, cp.sum(x) <= 0.7])


PATHS = [
    sst.SoftArgmax(polytopes.KSubset(5, 2), sst.BinaryEntropy()),
    sst.SoftArgmax(polytopes.KSubset(5, 2), sst.Euclidean(), path="active_set"),
    sst.SoftArgmax(k_subset(5, 2), sst.CategoricalEntropy()),
    sst.SoftArgmax(k_subset(5, 2), sst.Euclidean(), path="layer"),
    sst.SoftArgmax(declared_ball(), sst.Euclidean()),
]


@pytest.mark.parametrize("soft", PATHS, ids=["fast", "active_set", "interior_point", "layer", "cone"])
@pytest.mark.parametrize("shape", [(), (2, 3), (0,)], ids=str)
def test_every_path(soft, shape):
    u = torch.randn(*shape, *soft.structure.event_shape, dtype=torch.float64)
    x, info = soft(u, 0.5, return_info=True)
    assert torch.equal(x, soft(u, 0.5))
    assert isinstance(info, sst.SolveInfo)
    assert info.path == soft.path
    for part in (info.converged, info.iterations, info.gap, info.violation, info.status, info.reason):
        assert tuple(part.shape) == shape
    assert info.converged.dtype == torch.bool
    assert info.converged.all()
    assert (info.status == "solved").all()
    assert info.iterations.dtype == torch.int64
    assert ((info.iterations == 0) == (soft.path == "fast")).all()
    assert (info.iterations >= 0).all()
    assert info.gap.dtype == torch.float64
    assert (info.gap <= 1e-6).all()
    assert (info.violation <= 1e-6).all()
    assert "SolveInfo(path=" in repr(info)
    assert "_soft" not in repr(info)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # of the reference
@pytest.mark.parametrize("soft", PATHS, ids=["fast", "active_set", "interior_point", "layer", "cone"])
def test_multipliers_are_those_of_cvxpy(soft):
    """Where no item is on an edge of the box, multipliers of k-subsets are unique."""
    u, t = torch.randn(2, 2, *soft.structure.event_shape, dtype=torch.float64), 1.5
    _, info = soft(u, t, return_info=True)
    structure, found = soft.structure, info.multipliers
    x, f = structure.variable, soft.regularizer.expression(structure.variable)
    before = x.value
    compared = 0
    for index in np.ndindex(2, 2):
        problem = cp.Problem(cp.Maximize(u[index].numpy() @ x - t * f), structure.constraints)
        problem.solve(**TIGHT)
        if soft.regularizer.domain[1] > 1e9 and not _unique(structure, x.value):
            continue
        compared += 1
        for own, c in zip(found, structure.constraints, strict=True):
            np.testing.assert_allclose(_flat(own, index), _dual(c), atol=2e-5, rtol=1e-5)
    assert compared
    assert before is None
    for leaf in (x, *(d for c in structure.constraints for d in c.dual_variables)):
        leaf.save_value(None)


def _flat(own, index):
    parts = own if isinstance(own, list) else [own]
    return np.concatenate([part[index].numpy().ravel() for part in parts])


def _dual(c):
    parts = c.dual_value if isinstance(c.dual_value, list) else [c.dual_value]
    return np.concatenate([np.ravel(part) for part in parts])


def _unique(structure, x):
    """Some coordinate of the k-subset is within the box; balls have unique multipliers."""
    return bool(((x > 1e-4) & (x < 1 - 1e-4)).any()) or structure.hull.nonlinearity != ""


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.BinaryEntropy()], ids=repr)
def test_multipliers_of_random_polytopes(regularizer):
    structure = random_polytope(12, 2, 6)
    soft, u = sst.SoftArgmax(structure, regularizer), 2 * torch.randn(6, 12, dtype=torch.float64)
    _, info = soft(u, return_info=True)
    x, found, f = structure.variable, info.multipliers, regularizer.expression(structure.variable)
    for i in range(6):
        cp.Problem(cp.Maximize(u[i].numpy() @ x - f), structure.constraints).solve(**TIGHT)
        for own, c in zip(found, structure.constraints, strict=True):
            np.testing.assert_allclose(own[i].numpy(), c.dual_value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", ["active_set", "interior_point", "layer", "cone"])
def test_multipliers_where_no_constraint_acts(path):
    """u - t grad f(x) is what the solution's error leaves: not a direction that x is expected to be furthest along."""
    x = cp.Variable(3)
    box = sst.Structure(x, [x >= -1, x <= 1, cp.sum(x) <= 2])
    structure = declared_ball() if path == "cone" else box
    soft = sst.SoftArgmax(structure, sst.Euclidean(), path="layer" if path == "cone" else path)
    u = torch.rand(40, 3, dtype=torch.float64) * 0.6 - 0.35
    for parts in soft(u, 1.5, return_info=True)[1].multipliers:
        for part in parts if isinstance(parts, list) else [parts]:
            torch.testing.assert_close(part, torch.zeros_like(part), atol=1e-5, rtol=0)


def matrices():
    x, y, limit = cp.Variable((2, 3)), cp.Variable(), cp.Parameter((2, 3), name="limit")
    return sst.Structure(x, [x >= 0, x <= limit, cp.sum(x, axis=1) == 1, cp.max(x[0]) <= y, y + x[1, 2] <= 0.75])


def test_multipliers_with_auxiliary_variables_and_parameters():
    structure = matrices()
    soft, u = sst.SoftArgmax(structure, sst.CategoricalEntropy()), torch.randn(3, 2, 3, dtype=torch.float64)
    u[..., 0] += 2
    limit = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.9, 0.5]], dtype=torch.float64)
    _, info = soft(u, 0.7, limit=limit, return_info=True)
    x, found = structure.variable, info.multipliers
    assert [tuple(z.shape) for z in found] == [(3, 2, 3), (3, 2, 3), (3, 2), (3,), (3,)]
    structure.parameters[0].value = limit.numpy()
    for i in range(3):
        objective = cp.sum(cp.multiply(u[i].numpy(), x)) + 0.7 * cp.sum(cp.entr(x))
        cp.Problem(cp.Maximize(objective), structure.constraints).solve(**TIGHT)
        for own, c in zip(found, structure.constraints, strict=True):
            np.testing.assert_allclose(own[i].numpy(), c.dual_value, atol=1e-5)


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
def test_multipliers_are_differentiable(regularizer):
    """Along a random direction, by central differences in one batch."""
    soft, e = sst.SoftArgmax(matrices(), regularizer), 1e-6
    u = torch.randn(2, 3, dtype=torch.float64)
    u[:, 0] += 1
    limit = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.9, 0.5]], dtype=torch.float64)
    here = [part.requires_grad_() for part in (u, torch.tensor(0.7, dtype=torch.float64), limit)]
    moves = [torch.randn_like(part) for part in here]
    near = [torch.stack([p + e * d, p - e * d]).detach() for p, d in zip(here, moves, strict=True)]
    found = soft(here[0], here[1], limit=here[2], return_info=True)[1].multipliers
    around = soft(near[0], near[1], limit=near[2], return_info=True)[1].multipliers
    for z, ends in zip(found, around, strict=True):
        v = torch.randn_like(z)
        along = sum((g * d).sum() for g, d in zip(torch.autograd.grad(z, here, v, True), moves, strict=True))
        torch.testing.assert_close(along, ((ends[0] - ends[1]) * v).sum() / (2 * e), atol=1e-5, rtol=1e-5)


def test_multipliers_of_single_precision():
    soft, u = sst.SoftArgmax(k_subset(5, 2), sst.BinaryEntropy()), torch.randn(3, 5)
    single, double = (soft(v, return_info=True)[1].multipliers for v in (u, u.double()))
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    box = cp.Variable(3)
    inside = sst.SoftArgmax(sst.Structure(box, [box >= -9, box <= 9]), sst.Euclidean())
    for z in inside(torch.randn(4, 3), return_info=True)[1].multipliers:
        assert torch.equal(z, torch.zeros(4, 3, dtype=torch.float64))


def test_multipliers_at_entries_that_underflow():
    soft = sst.SoftArgmax(k_subset(4, 1), sst.CategoricalEntropy())
    u = torch.tensor([0.0, 100.0, -900.0, -300.0], dtype=torch.float64)
    _, info = soft(u, return_info=True)
    assert abs(info.multipliers[-1] - (torch.logsumexp(u, 0) - 1)) < 1e-6  # of sum x = 1


def test_multipliers_with_masks_and_without_a_hull():
    soft, u = sst.SoftArgmax(k_subset(5, 2), sst.BinaryEntropy()), torch.randn(2, 5, dtype=torch.float64)
    mask = torch.tensor([True, True, True, True, False])
    _, info = soft(u, mask=mask, return_info=True)
    face = sst.SoftArgmax(k_subset(4, 2), sst.BinaryEntropy())(u[:, :4], return_info=True)[1]
    torch.testing.assert_close(info.multipliers[-1], face.multipliers[-1])
    corners = polytopes.KSubset(4, 2)
    unknown = sst.SoftArgmax(sst.Structure.from_argmax(4, corners.argmax), sst.Euclidean())
    _, info = unknown(u[:, :4], return_info=True)
    assert info.gap.abs().max() < 1e-8
    assert (info.iterations > 0).all()
    with pytest.raises(NotImplementedError, match="declared hull"):
        _ = info.multipliers


def test_what_is_told_is_of_the_call():
    """Utilities and points that the caller overwrites do not count."""
    soft, u = PATHS[2], torch.randn(3, 5, dtype=torch.float64)
    x, info = soft(u, 0.5, return_info=True)
    u.zero_()
    x.zero_()
    assert info.gap.abs().max() < 1e-8


def test_copies_of_a_soft_argmax():
    soft, u = sst.SoftArgmax(k_subset(4, 2), sst.Euclidean()), torch.randn(2, 4)
    _, info = soft(u, return_info=True)
    for other in (pickle.loads(pickle.dumps(soft)), copy.deepcopy(soft)):
        _, again = other(u, return_info=True)
        for a, b in zip(info.multipliers, again.multipliers, strict=True):
            torch.testing.assert_close(a, b)


def test_inference_mode():
    soft, u = PATHS[2], torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        _, info = soft(u, return_info=True)
    _, expected = soft(u, return_info=True)
    for a, b in zip((info.gap, *info.multipliers), (expected.gap, *expected.multipliers), strict=True):
        torch.testing.assert_close(a, b.detach())
    assert expected.multipliers[-1].requires_grad
    assert not info.multipliers[-1].requires_grad


def test_multipliers_of_rows_that_move_have_no_derivatives():
    """They would lack the part of the rows: better none than a wrong one."""
    x, row = cp.Variable(3), cp.Parameter(3, name="row")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, row @ x <= 1]), sst.Euclidean())
    u = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    _, info = soft(u, row=torch.ones(3, dtype=torch.float64), return_info=True)
    assert float(info.multipliers[2]) > 0
    assert not info.multipliers[2].requires_grad
