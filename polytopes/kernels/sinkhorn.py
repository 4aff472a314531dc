"""Entropic soft argmax over doubly stochastic matrices, by Newton's method on the semi-dual.

X_ij = exp(u_ij - a_i - b_j) with unit row and column sums. Given b, the row sums fix a, so X is the row-wise softmax
of u - b, and b minimises the convex, smooth

    phi(b) = sum_i logsumexp_j (u_ij - b_j) + sum_j b_j,   grad = 1 - c,   Hessian = L = diag(c) - X'X,   c = X'1.

L is a graph Laplacian (L 1 = 0, off-diagonal entries <= 0). Sinkhorn's step b += log c converges linearly, and stalls
at low temperatures; Newton's does not. Low temperatures are reached by raising the scale of u in stages.

Backward, with X and rows summing to 1: for a cotangent V, P = X o V,

    L beta = P'1 - X'(P 1),   alpha = P 1 - X beta,   grad_u = X o (V - alpha 1' - 1 beta').

This is symmetric in V -> grad_u, and plain tensor code, so autograd differentiates it again.
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.autodiff import Function
from sst_cvx.errors import SolveError

_RIDGE = 1e-14  # below this, a direction of b moves no entry of X by more than rounding
_FIRST_RANGE = 16.0  # range of the utilities at the first stage
_STAGE = 4.0  # growth of the scale from one stage to the next
_LARGEST_RANGE = 1e6  # column sums are then right to about 1e-9
_MAX_STEPS = 300


def doubly_stochastic(u: torch.Tensor) -> torch.Tensor:
    """argmax { <u, x> - sum x log x : x doubly stochastic }: ``(*batch, n, n)`` to the same shape.

    Solved and differentiated in float64, returned in the dtype of ``u``.

    Raises:
        SolveError: Newton's method did not converge, naming the elements (by their number in the flattened batch).
    """
    return _DoublyStochastic.apply(u)


class _DoublyStochastic(Function):
    @staticmethod
    def forward(u: torch.Tensor) -> torch.Tensor:
        n = u.shape[-1]
        x = _solve(u.reshape(-1, n, n).to(torch.float64))
        return x.reshape(u.shape).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return _apply_jacobian(x, grad)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return _apply_jacobian(x, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor) -> tuple:
        return _DoublyStochastic.apply(u.movedim(in_dims[0], 0)), 0


def _apply_jacobian(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    dtype = v.dtype
    x, v = x.to(torch.float64), v.to(torch.float64)
    x = x / x.sum(-1, keepdim=True)  # float32 answers: rows sum to 1 again
    p = x * v
    rows = p.sum(-1, keepdim=True)
    rhs = p.sum(-2).unsqueeze(-1) - x.mT @ rows
    beta = torch.cholesky_solve(rhs, torch.linalg.cholesky(_laplacian(x)))
    alpha = rows - x @ beta
    return (x * (v - alpha - beta.mT)).to(dtype)


def _laplacian(x: torch.Tensor) -> torch.Tensor:
    """diag(X'1) - X'X + 11'/n + ridge: positive definite, L plus what fills its null space."""
    L = 1.0 / x.shape[-1] - x.mT @ x
    L.diagonal(dim1=-2, dim2=-1).add_(x.sum(-2) + _RIDGE)
    return L


def _solve(u: torch.Tensor) -> torch.Tensor:
    """Row-wise softmax of u - b at the solution, ``(batch, n, n)``."""
    u = u - u.amax(-1, keepdim=True)  # a shift of a row changes nothing
    u = u - u.amax(-2, keepdim=True)
    spread = -u.flatten(1).amin(1)
    too_far = ~(spread <= _LARGEST_RANGE)
    if bool(too_far.any()):
        raise SolveError(
            f"utilities / temperature range over more than {_LARGEST_RANGE:g} for {{elements}}, where "
            "float64 rounding would show in the answer: raise the temperature, or use argmax.",
            torch.nonzero(too_far).flatten().tolist(),
        )
    x, error = torch.empty_like(u), torch.zeros_like(spread)
    active = torch.arange(len(u), device=u.device)
    # Rounding of u - b limits what the column sums can reach at a large range of utilities.
    tolerance = 4 * torch.finfo(u.dtype).eps * (u.shape[-1] + spread)
    scale = _FIRST_RANGE / spread.clamp(min=_FIRST_RANGE)
    b = torch.zeros_like(u[:, 0])
    for step in range(_MAX_STEPS):
        scaled = u if bool((scale == 1).all()) else scale[:, None, None] * u
        current = (scaled - b[:, None]).softmax(-1)
        column = current.sum(-2)
        error = (column - 1).abs().amax(-1)
        done = (scale == 1) & (error <= tolerance)
        finished = int(done.sum())
        if 2 * finished >= len(done):  # store what is done, and go on with the others
            x[active] = current
            if finished == len(done):
                return x
            keep = ~done
            active, u, scaled, b, current, column = (v[keep] for v in (active, u, scaled, b, current, column))
            tolerance, scale, error, done = tolerance[keep], scale[keep], error[keep], done[keep]
        following = _step(scaled, b, current, column, error, sinkhorn=step < 3)
        b = torch.where(done[:, None], b, following)
        grown = torch.where(error <= 0.1, (scale * _STAGE).clamp(max=1.0), scale)
        b, scale = b * (grown / scale)[:, None], grown
    raise SolveError(
        "Newton's method for doubly stochastic matrices did not converge for {elements} "
        f"(column sums off by up to {float(error.max()):.1e}): raise the temperature.",
        active[error > tolerance].tolist(),
    )


def _step(
    u: torch.Tensor, b: torch.Tensor, x: torch.Tensor, column: torch.Tensor, error: torch.Tensor, sinkhorn: bool
) -> torch.Tensor:
    """The next b: Newton's where it lowers phi (or is near the end), else Sinkhorn's."""
    by_sinkhorn = b + column.log().clamp(min=-700.0)
    if sinkhorn:
        return by_sinkhorn
    factor, failed = torch.linalg.cholesky_ex(_laplacian(x))
    direction = torch.cholesky_solve((column - 1).unsqueeze(-1), factor).squeeze(-1)
    direction = direction * (4.0 / direction.abs().amax(-1, keepdim=True).clamp(min=4.0))
    good = error <= 1e-3
    trial = b + direction
    if not bool(good.all()):
        trial, good = _search(u, b, direction, (1 - column), good)
    usable = good & (failed == 0) & torch.isfinite(direction).all(-1)
    return torch.where(usable[:, None], trial, by_sinkhorn)


def _search(
    u: torch.Tensor, b: torch.Tensor, direction: torch.Tensor, gradient: torch.Tensor, near: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Backtracking along Newton's direction until phi falls enough; whole steps where ``near``."""
    value, slope = _semi_dual(u, b), (gradient * direction).sum(-1)
    length = torch.ones_like(value)
    for _ in range(8):
        trial = b + length[:, None] * direction
        good = near | (_semi_dual(u, trial) <= value + 1e-4 * length * slope)
        if bool(good.all()):
            break
        length = torch.where(good, length, 0.5 * length)
    return trial, good


def _semi_dual(u: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (u - b[:, None]).logsumexp(-1).sum(-1) + b.sum(-1)
