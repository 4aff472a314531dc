"""What is known at a solution: that it is one, and its derivative.

With the common point x (the mean of the x_i), the normals p_i = y + w_i - x sum to m (y - x). For x* the projection,

    |x - x*|^2  <=  <y - x, x* - x>  =  1/m sum_i <p_i, x* - x>  <=  1/m sum_i max_{v in X_i} <p_i, v - x>,

if x is in all hulls: a bound from the parts' argmaxes alone. x is within |x_i - x| of each hull; how far it is from
their intersection, the step c of Newton's method there tells, which leads to the common point of the faces found. So
|x - x*| is at most c and the root of that gap; both must be small.

The derivative. x stays on the faces of all parts, so dx = B B' dy, B an orthonormal basis of the directions that all of
them have: the limit of 2 J_1 (J_1 + J_2)^+ J_2 for two projectors. By the equations of the dual: dx = J_i (dy + dw_i)
for all i, sum_i dw_i = 0, which is one more system of Newton's method. At kinks of a part (the w_i are not unique) its
J_i is the projector on a face that w_i exposes, larger perhaps than the least; for almost all y, all choices have the
same intersection. Symmetric, and locally constant in y: its own derivative is itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sst_cvx.autodiff import Function
from sst_cvx.errors import Elements, SolveError
from sst_cvx.paths.splitting.newton import Evaluation, Solved, centred, conjugate_gradients
from sst_cvx.paths.splitting.parts import Part

_GAP = 1e-12  # in units of the set's size squared: its root bounds the distance
_APART = 1e-8  # in units of the set's size
_ROUNDING = 64 * torch.finfo(torch.float64).eps
_AGREE = 1e-6  # of a cotangent's size: how far its projections onto parts may differ


def certify(parts: Sequence[Part], y: torch.Tensor, solved: Solved, unit: float) -> None:
    """Raise SolveError, by rows, unless the mean of the points is the projection of y.

    Raises:
        SolveError: also where a part's projections or argmax are wrong, as far as others tell.
    """
    x = solved.at.x.mean(0)
    r = centred(solved.at.x)
    distance = r.norm(dim=2).norm(dim=0)
    goal = torch.maximum(1e-3 * distance, _ROUNDING / 64 * (x.norm(dim=1) + unit + y.norm(dim=1)))
    d = conjugate_gradients(solved.at.along, -r, 1e-8, goal)
    apart = r.norm(dim=2).amax(0) + solved.at.along(d).mean(0).norm(dim=1)
    p = y + centred(solved.w) - x
    reach = x.norm(dim=1) + unit
    total, wrong = torch.zeros_like(apart), torch.zeros_like(apart, dtype=torch.bool)
    room = torch.zeros_like(apart)
    for part, own in zip(parts, p, strict=True):
        gap = (own * (part.furthest(own) - x)).sum(1)
        rounding = _ROUNDING * own.norm(dim=1) * (reach + y.norm(dim=1) + own.norm(dim=1))
        wrong |= gap < -(own.norm(dim=1) * apart + rounding + _GAP * unit**2)
        total, room = total + gap, room + rounding
    wrong |= ~(total / len(parts) <= _GAP * unit**2 + room)
    wrong |= ~(apart <= _APART * unit + _ROUNDING * (reach + p.norm(dim=2).amax(0)))
    if bool(wrong.any()):
        raise SolveError(
            "the splitting path has a point that it cannot certify for {elements}: the duality gap, or the distance "
            "between the hulls' points, has not vanished. It is not returned. Is the soft argmax of every part exact, "
            "and the argmax that of the same set?",
            torch.nonzero(wrong).flatten().tolist(),
        )


class Jacobian:
    """v -> dx/dy v at a solution."""

    def __init__(self, at: Evaluation, elements: Elements):
        self._at, self._elements = at, elements

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """Of ``(rows, size)`` vectors.

        Raises:
            SolveError: conjugate gradients did not get there.
        """
        along = self._at.along
        all_v = v.expand(len(self._at.x), *v.shape)
        found = along(all_v)
        goal = 1e-14 * v.norm(dim=1)
        for _ in range(2):  # the second time for the digits that the first lacks
            all_v = all_v + conjugate_gradients(along, -centred(found), 0.0, goal)
            found = along(all_v)
        wrong = centred(found).norm(dim=2).amax(0) > _AGREE * v.norm(dim=1)
        message = "the derivative of the soft argmax over an intersection did not converge for {elements}."
        return self._elements.refuse(wrong, message, found.mean(0))[0]


def project(y: torch.Tensor, x: torch.Tensor, jacobian: Jacobian) -> torch.Tensor:
    """x, with the derivative by y."""
    return _Projection.apply(y, x, jacobian)


class _Projection(Function, one_by_one=True):
    @staticmethod
    def forward(y: Any, x: Any, jacobian: Jacobian) -> Any:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.jacobian = inputs[2]

    @staticmethod
    def backward(ctx: Any, v: Any) -> Any:
        return _Along.apply(v, ctx.jacobian), None, None


class _Along(Function, one_by_one=True):
    @staticmethod
    def forward(v: Any, jacobian: Jacobian) -> Any:
        return jacobian(v.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.jacobian = inputs[1]

    @staticmethod
    def backward(ctx: Any, v: Any) -> Any:
        return _Along.apply(v, ctx.jacobian), None
