"""The subtraction-free elimination of ``tree_sum.py`` on the weights themselves, where their range permits.

Vertices are eliminated from the last to the first, in place. With S the mass that enters v, p = w_iv / S, o = w_vj:

    w_ij <- w_ij + p_i o_j,        log Z = sum_v log S_v.

Its reverse gives Y_ij = d log Z / d w_ij, vertex by vertex in the opposite order; with q = Y o over earlier vertices,

    Y_vj = sum_i p_i Y_ij,         Y_iv = (1 + q_i - <p, q>) / S,

and the marginals are w Y. Their Jacobian is symmetric (a Hessian), so its product with V is their derivative along V:
both recursions, differentiated by hand. Five passes in place of a graph of n copies of the weights.

With a single root, the root's row is a right-hand side: S leaves it out, the 1 and <p, q> above do not reach it, and
the last vertex that is left brings log w_01.
"""

from __future__ import annotations

from typing import Any

import torch

from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.tree_log_elimination import marginals_along
from sst_cvx.autodiff import Function

_LOST = 560.0  # weights below exp(-_LOST) are dropped: less than rounding, and their products would be subnormal


def eliminated(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """log Z by elimination in the log domain, right at any scale; differentiable any number of times.

    Args:
        w: ``(batch, n, n)`` log-weights, root first; with a single root, vertex 1 must reach all others.
    """
    last = int(single_root)
    total = w.new_zeros(len(w))
    for v in range(w.shape[-1] - 1, last, -1):
        into, out, rest = w[:, :v, v], w[:, v, :v], w[:, :v, :v]
        mass = into[:, last:].logsumexp(1)
        detour = (into - mass[:, None])[:, :, None] + out[:, None, :]
        w = torch.stack([rest, detour]).logsumexp(0)
        total = total + mass
    return total + w[:, 0, 1] if single_root else total


def eliminated_weights(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """``eliminated`` for log-weights whose exponentials neither overflow nor lose a tree that counts."""
    return _EliminatedWeights.apply(_without_lost(w), single_root)[0]  # type: ignore[no-any-return]


def eliminated_marginals(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Gradient of ``eliminated_weights``, ``(batch, n, n)``."""
    kept = _without_lost(w)
    factors, mass = _factors(kept.detach().exp(), int(single_root))
    return _Marginals.apply(kept, factors, mass, single_root)[0]  # type: ignore[no-any-return]


def _without_lost(w: torch.Tensor) -> torch.Tensor:
    return torch.where(w < -_LOST, ABSENT, w)


class _EliminatedWeights(Function):
    """log Z; and the factors and masses of the elimination, kept for derivatives: constants outside."""

    @staticmethod
    def forward(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        factors, mass = _factors(w.exp(), int(single_root))
        total = mass.log().sum(1)
        return total + factors[:, 0, 1].log() if single_root else total, factors, mass

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.save_for_forward(inputs[0], *output[1:])
        ctx.single_root = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient[:, None, None] * _Marginals.apply(*ctx.saved_tensors, ctx.single_root)[0], None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> tuple:  # type: ignore[override]
        x = _Marginals.apply(*ctx.saved_tensors, ctx.single_root)[0]
        return (x * tangent).sum((1, 2)), None, None


class _Marginals(Function, one_by_one=True):
    """w Y, from the factors of the elimination; and Y, kept for the Jacobian: a constant outside."""

    @staticmethod
    def forward(
        w: torch.Tensor, factors: torch.Tensor, mass: torch.Tensor, single_root: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        adjoint = _adjoint(factors, mass, int(single_root))
        return w.exp() * adjoint, adjoint

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.save_for_forward(*inputs[:3], output[1])
        ctx.single_root = inputs[3]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple:  # type: ignore[override]
        return _product(ctx, gradient), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        return _product(ctx, tangent), None


def _product(ctx: Any, v: torch.Tensor) -> torch.Tensor:
    """Of the marginals' Jacobian, which is symmetric, with V."""
    w, factors, mass, adjoint = ctx.saved_tensors
    if torch.is_grad_enabled():  # it may be differentiated itself
        return marginals_along(w, v, int(ctx.single_root))
    weights = w.exp()
    along = weights * v
    product = adjoint * along
    product += weights * _adjoint_along(along, factors, mass, adjoint, int(ctx.single_root))
    return product


def _factors(w: torch.Tensor, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eliminate in place: p above the diagonal, o below it; and the masses S, 1 up to vertex ``last``."""
    mass = torch.ones_like(w[:, 0])
    for v in range(w.shape[-1] - 1, last, -1):
        into = w[:, :v, v]
        mass[:, v] = into[:, last:].sum(1)
        into /= mass[:, v, None]
        w[:, :v, :v].addcmul_(into[:, :, None], w[:, v, None, :v])
    return w, mass


def _adjoint(factors: torch.Tensor, mass: torch.Tensor, last: int) -> torch.Tensor:
    y = torch.zeros_like(factors)
    if last:
        y[:, 0, 1] = 1 / factors[:, 0, 1]
    for v in range(last + 1, factors.shape[-1]):
        known, p, o = y[:, :v, :v], factors[:, :v, v, None], factors[:, v, :v, None]
        y[:, v, :v] = (p.mT @ known)[:, 0]
        q = (known @ o)[:, :, 0]
        q[:, last:] += 1 - (p[:, :, 0] * q).sum(1, keepdim=True)
        y[:, :v, v] = q / mass[:, v, None]
    return y


def _adjoint_along(
    along: torch.Tensor, factors: torch.Tensor, mass: torch.Tensor, y: torch.Tensor, last: int
) -> torch.Tensor:
    """Derivative of the adjoint Y when weights move ``along``."""
    both = torch.stack([factors, along], 1)  # what is eliminated, and its derivative
    growth = torch.zeros_like(mass)  # of log S
    for v in range(factors.shape[-1] - 1, last, -1):
        (p, into), (o, out) = both[:, :, :v, v].unbind(1), both[:, :, v, :v].unbind(1)
        into /= mass[:, v, None]
        growth[:, v] = into[:, last:].sum(1)
        into -= p * growth[:, v, None]
        rest = both[:, 1, :v, :v]
        rest.addcmul_(into[:, :, None], o[:, None]).addcmul_(p[:, :, None], out[:, None])
    dy = torch.zeros_like(y)
    if last:
        dy[:, 0, 1] = -both[:, 1, 0, 1] * y[:, 0, 1] * y[:, 0, 1]  # in this order: the square may be 0
    for v in range(last + 1, factors.shape[-1]):
        p, o = both[:, :, :v, v], both[:, :, v, :v]
        dy[:, v, :v] = (p[:, :1] @ dy[:, :v, :v] + p[:, 1:] @ y[:, :v, :v])[:, 0]
        q, dq = (y[:, :v, :v] @ o.mT).unbind(2)
        dq = dq + (dy[:, :v, :v] @ o[:, :1].mT)[:, :, 0]
        dq[:, last:] -= (p[:, 1] * q + p[:, 0] * dq).sum(1, keepdim=True)
        dy[:, :v, v] = dq / mass[:, v, None] - y[:, :v, v] * growth[:, v, None]
    return dy
