"""Entropic matchings of every kind: against alternating exact steps, optimality, gradients, where Newton is hard."""

from __future__ import annotations

import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels import matching_duals, matching_newton
from polytopes.kernels.sinkhorn import doubly_stochastic, entropic_matching
from polytopes.matching import Matching

CATEGORICAL = sst.CategoricalEntropy()
KINDS = [
    *(Matching(n, m) for n, m in ((4, 4), (3, 5), (5, 3), (1, 4))),
    *(Matching(3, m, partial=True) for m in (4, 3)),
]


def alternating(u: torch.Tensor, every_row: bool, every_column: bool, allowed: torch.Tensor) -> torch.Tensor:
    """Plain Sinkhorn, exact steps on a and b in turn."""
    z = torch.where(allowed, u - 1, -torch.inf)
    there = allowed.any(-1), allowed.any(-2)
    a, b = torch.zeros(u.shape[:-1], dtype=u.dtype), torch.zeros_like(u[..., 0, :])
    for _ in range(3000):
        a = torch.where(there[0], (z - b[..., None, :]).logsumexp(-1), 0.0)
        a = a if every_row else a.clamp(min=0)
        b = torch.where(there[1], (z - a[..., None]).logsumexp(-2), 0.0)
        b = b if every_column else b.clamp(min=0)
    return (z - a[..., None] - b[..., None, :]).exp()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("structure", KINDS, ids=repr)
def test_against_alternating_steps(structure, masked):
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(20, *structure.event_shape, dtype=torch.float64, generator=generator)
    allowed = torch.ones_like(u, dtype=torch.bool)
    if masked:  # every item in some matching
        allowed = structure.argmax(torch.randn(3, *u.shape, generator=generator)).amax(0) > 0
    sides = structure._every_row, structure._every_column
    x = entropic_matching(u, *sides, allowed if masked else None)
    torch.testing.assert_close(x, alternating(u, *sides, allowed), rtol=0, atol=1e-9)
    assert bool((x[~allowed] == 0).all())


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0, 1e4])
@pytest.mark.parametrize("structure", KINDS, ids=repr)
def test_optimal_at_every_scale(structure, scale, offset):
    u = scale * torch.randn(200, *structure.event_shape, dtype=torch.float64) + offset
    soft = sst.SoftArgmax(structure, CATEGORICAL)
    assert soft.path == "fast"
    x = soft(u)
    assert float((soft.gap(u, x).abs() / (1 + u.abs().amax((1, 2)))).max()) < 1e-9
    for side, every in ((-1, structure._every_row), (-2, structure._every_column)):
        sums = x.sum(side)
        assert float(sums.max()) < 1 + 1e-9
        assert float(sums.min()) > 1 - 1e-9 or not every
    single = soft(u.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), soft(u.float().double()), rtol=0, atol=1e-6)


def test_ties_and_equal_utilities():
    for structure in KINDS:
        u = torch.randint(-2, 3, (300, *structure.event_shape)).double() * 10
        soft = sst.SoftArgmax(structure, CATEGORICAL)
        assert float(soft.gap(u, soft(u)).abs().max()) < 1e-8
        n, m = structure.event_shape
        x = soft(torch.full((n, m), 3.0, dtype=torch.float64))
        torch.testing.assert_close(x, torch.full_like(x, min(n, m) / (n * m)))


BLOCKS = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()  # two components: two directions that move nothing


@pytest.mark.parametrize(
    ("structure", "mask"),
    [
        (Matching(3, 4), None),
        (Matching(4, 2), None),
        (Matching(3, 4, partial=True), None),
        (Matching(4), BLOCKS),
        (Matching(4, partial=True), BLOCKS),
        (Matching(3, 5), Matching(3, 5).length_mask(torch.tensor([2, 3]), torch.tensor([4, 3]))),
        (Matching(2, 3), Matching(2, 3).length_mask(torch.tensor([1, 0]), torch.tensor([3, 3]))),
    ],
    ids=lambda part: repr(part) if isinstance(part, sst.Structure) else "all" if part is None else "masked",
)
def test_gradcheck_twice(structure, mask):
    soft = sst.SoftArgmax(structure, CATEGORICAL)
    u = (2 * torch.randn(2, *structure.event_shape, dtype=torch.float64)).requires_grad_()
    t = torch.tensor([0.7, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t: soft(v, t, mask=mask), (u, t))
    assert torch.autograd.gradgradcheck(lambda v, t: soft(v, t, mask=mask), (u, t))


@pytest.mark.parametrize("structure", [Matching(3, 5), Matching(3, partial=True)], ids=repr)
def test_forward_mode_and_vmap(structure):
    sides = structure._every_row, structure._every_column
    u, d = torch.randn(2, 4, *structure.event_shape, dtype=torch.float64)

    def function(v):
        return entropic_matching(v, *sides)

    assert torch.allclose(torch.func.vmap(function)(u), function(u), atol=1e-12)
    _, forward = torch.func.jvp(function, (u,), (d,))
    _, pull = torch.func.vjp(function, u)
    assert torch.allclose(forward, pull(d)[0], atol=1e-10)


@pytest.mark.parametrize(
    ("structure", "mask"),
    [
        (Matching(2), torch.ones(2, 2).triu()),
        (Matching(12), torch.ones(12, 12).triu()),
        (Matching(3, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0]])),
    ],
    ids=lambda part: repr(part) if isinstance(part, sst.Structure) else "all" if part is None else "masked",
)
def test_items_in_no_matching_are_zero(structure, mask, monkeypatch):
    """Allowed, but then another row or column would have no partner: no finite multipliers make them 0."""
    rescued = []
    with_finite = matching_duals.Duals.with_finite
    monkeypatch.setattr(matching_duals.Duals, "with_finite", lambda self: rescued.append(1) or with_finite(self))
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, CATEGORICAL)
    x = soft(u, 0.5, mask=mask.bool())
    assert rescued
    slow = sst.SoftArgmax(structure, CATEGORICAL, path="interior_point")
    torch.testing.assert_close(x, slow(u, 0.5, mask=mask.bool()), rtol=0, atol=1e-9)


def test_masks_without_a_matching_are_refused_by_name():
    mask = torch.ones(2, 3, 3, 4, dtype=torch.bool)
    mask[1, 2] = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    with pytest.raises(sst.SolveError, match="no element of the set avoids") as caught:
        sst.SoftArgmax(Matching(3, 4), CATEGORICAL)(torch.randn(2, 3, 3, 4), mask=mask)
    assert caught.value.elements == ((1, 2),)


def test_elements_that_do_not_converge_are_named(monkeypatch):
    monkeypatch.setattr(matching_newton, "_MAX_STEPS", 1)
    u = torch.zeros(2, 2, 3, 3)
    u[1, 0] = 100 * torch.randn(3, 3)
    with pytest.raises(sst.SolveError, match="did not converge for batch element") as caught:
        sst.SoftArgmax(Matching(3), CATEGORICAL)(u)
    assert caught.value.elements == ((1, 0),)


def test_utilities_too_far_apart_are_refused_by_name():
    u = torch.zeros(2, 3, 3)
    u[1, 0, 0] = 1e8
    with pytest.raises(sst.SolveError, match="range over more than 1e"):
        doubly_stochastic(u)
    x = sst.SoftArgmax(polytopes.Matching(3, partial=True), CATEGORICAL)(-u)  # nothing raises such an item
    assert float(x[1, 0, 0]) == 0
