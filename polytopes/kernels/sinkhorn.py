"""Entropic soft argmax over matchings: matrices with row and column sums of 1, or of at most 1; differentiable.

Solved by ``matching_newton.py``; perfect ones on the CPU, compiled, by ``native/sinkhorn.py``. Backward, for a
cotangent V, with P = X o V, T and F the tight rows and columns, whose sum is 1, and L = diag(X'1) - X_T'X_T:

    L_F beta = P'1 - X_T'(P 1),   alpha = P 1 - X beta,   grad_u = X o (V - alpha 1' - 1 beta'),

alpha and beta 0 where not tight. This is symmetric in V -> grad_u, and plain tensor code, so autograd differentiates it
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from polytopes.kernels import matching_newton
from polytopes.kernels.matching_duals import Duals, laplacian, laplacian_of
from polytopes.kernels.matching_inside import solve_inside, substituted
from polytopes.kernels.matching_newton import LARGEST_RANGE, solve, solve_quietly
from sst_cvx import native
from sst_cvx.autodiff import Function
from sst_cvx.errors import SolveError
from sst_cvx.host import stops_early

# Compiled: columns at most, forward and backward, beyond which LAPACK is faster; of larger problems, the range of
# utilities at most where Sinkhorn's steps are tried first.
_SMALL, _SMALL_BACKWARD, _NEAR = 128, 64, 16.0


def doubly_stochastic(u: torch.Tensor) -> torch.Tensor:
    """argmax { <u, x> - sum x log x : x doubly stochastic }: ``(*batch, n, n)`` to the same shape."""
    return entropic_matching(u, every_row=True, every_column=True)


def entropic_matching(
    u: torch.Tensor, every_row: bool, every_column: bool, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """argmax { <u, x> - sum x log x } over matrices x >= 0 with row and column sums of at most 1: ``(*batch, n, m)`` to
    the same shape.

    Sums are 1 where every row, every column is to be matched. Solved and differentiated in float64, returned in the
    dtype of ``u``.

    Args:
        allowed: bool, of the shape of u; other entries are 0. Rows and columns without any are not there.

    Raises:
        SolveError: Newton's method did not converge, naming the elements (by their number in the flattened batch).
    """
    turned = every_column if every_row != every_column else u.shape[-2] < u.shape[-1]
    if turned:  # rows, which need no multipliers, are those to be matched, or the more
        u, allowed = u.mT, None if allowed is None else allowed.mT
    x = _Matched.apply(u, allowed, every_row or every_column, every_row and every_column)[0]
    return x.mT if turned else x


class _Matched(Function):
    """x; and which rows and columns are tight, kept for the Jacobian: constants outside. None are listed if all are."""

    @staticmethod
    def forward(
        u: torch.Tensor, allowed: torch.Tensor | None, every_row: bool, every_column: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if torch.compiler.is_compiling():
            return _opaque(u, allowed, every_row, every_column)
        return _solve(u, allowed, every_row, every_column, solve)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.every_column = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        x, rows, columns = ctx.saved_tensors
        return _apply_jacobian(x, rows, columns, ctx.every_column, grad), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        x, rows, columns = ctx.saved_tensors
        return _apply_jacobian(x, rows, columns, ctx.every_column, tangent), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, allowed: Any, *sides: bool) -> tuple:
        size = info.batch_size
        u = u.expand(size, *u.shape) if in_dims[0] is None else u.movedim(in_dims[0], 0)
        if allowed is not None:
            back = in_dims[1] is None
            allowed = allowed.expand(size, *allowed.shape) if back else allowed.movedim(in_dims[1], 0)
        return _Matched.apply(u, allowed, *sides), (0, 0, 0)


def _solve(
    u: torch.Tensor, allowed: torch.Tensor | None, every_row: bool, every_column: bool, on_host: Callable[..., Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x and what is tight, of the shapes of u; by ``on_host`` where the host may be asked."""
    if on_host is solve and allowed is None and every_column and native.serves(u):
        x = _solve_compiled(u)
        if x is not None:
            listed = u.new_empty(*u.shape[:-2], 0, dtype=torch.bool)
            return x, listed, listed.clone()
    n, m = u.shape[-2:]
    mask = None if allowed is None else allowed.reshape(-1, n, m)
    problem = Duals.of(u.reshape(-1, n, m).to(torch.float64), mask, every_row, every_column)
    x, *tight = on_host(problem) if stops_early(u) else solve_inside(problem, LARGEST_RANGE)
    rows, columns = (part.reshape(*u.shape[:-2], part.shape[-1]) for part in tight)
    return x.reshape(u.shape).to(u.dtype), rows, columns


def _solve_compiled(u: torch.Tensor) -> torch.Tensor | None:
    """Perfect matchings; None where one did not converge, which the solver in tensors tells by name."""
    from polytopes.kernels.native import sinkhorn

    flat = native.array(u.to(torch.float64)).reshape(-1, *u.shape[-2:])  # one kernel to compile, for all dtypes
    x, done = np.empty_like(flat), np.empty(len(flat), bool)
    small = u.shape[-1] <= _SMALL
    limits = (LARGEST_RANGE, matching_newton._MAX_STEPS) if small else (_NEAR, 1)
    sinkhorn.solve(flat, x, done, *limits)
    if not done.all():
        try:
            x[~done] = solve(Duals.of(torch.from_numpy(flat[~done]), None, True, True))[0].numpy()
        except SolveError:
            return None
    return torch.from_numpy(x).view(u.shape).to(u.dtype)


@torch.library.custom_op("polytopes::entropic_matching", mutates_args=())
def _opaque(
    u: torch.Tensor, allowed: torch.Tensor | None, every_row: bool, every_column: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One operator for compilers, which would trace some 50 steps; what it cannot solve is NaN."""
    return _solve(u, allowed, every_row, every_column, solve_quietly)


@_opaque.register_fake
def _(
    u: torch.Tensor, allowed: torch.Tensor | None, every_row: bool, every_column: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    listed = allowed is not None or not every_column
    rows, columns = (u.new_empty(*u.shape[:-2], size if listed else 0, dtype=torch.bool) for size in u.shape[-2:])
    return u.new_empty(u.shape), rows, columns


def _solved(L: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """L^-1 right, by Cholesky; NaN where there is none and the host must not be asked."""
    if stops_early(L):
        return torch.cholesky_solve(right, torch.linalg.cholesky(L))
    factor, failed = torch.linalg.cholesky_ex(L)
    return substituted(torch.where((failed != 0)[..., None, None], torch.nan, factor), right)


def _jacobian_compiled(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor | None:
    """Of perfect matchings; None where Cholesky's method failed."""
    from polytopes.kernels.native import sinkhorn

    points, cotangents = (native.array(part.to(torch.float64)).reshape(-1, *x.shape[-2:]) for part in (x, v))
    g = np.empty_like(cotangents)
    return torch.from_numpy(g).view(v.shape).to(v.dtype) if sinkhorn.pull(points, cotangents, g) else None


def _apply_jacobian(
    x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, every_column: bool, v: torch.Tensor
) -> torch.Tensor:
    dtype = v.dtype
    if not rows.shape[-1] and x.shape[-1] <= _SMALL_BACKWARD and native.serves(v) and native.serves(x):
        again = torch.is_grad_enabled() and (v.requires_grad or x.requires_grad)
        g = None if again else _jacobian_compiled(x, v)
        if g is not None:
            return g
    x, v = x.to(torch.float64), v.to(torch.float64)
    if not rows.shape[-1]:  # a perfect matching
        x = x / x.sum(-1, keepdim=True)  # float32 answers: rows sum to 1 again
        p = x * v
        along = p.sum(-1, keepdim=True)
        rhs = p.sum(-2).unsqueeze(-1) - x.mT @ along
        beta = _solved(laplacian(x), rhs)
        return (x * (v - (along - x @ beta) - beta.mT)).to(dtype)
    rows, columns = rows[..., None].to(torch.float64), columns[..., None].to(torch.float64)
    x = x / torch.where(rows > 0, x.sum(-1, keepdim=True), 1.0)
    p, tight = x * v, x * rows
    along = rows * p.sum(-1, keepdim=True)
    rhs = columns * (p.sum(-2).unsqueeze(-1) - tight.mT @ along)
    L = laplacian_of(tight, x.sum(-2), columns[..., 0] > 0, every_column)
    beta = columns * _solved(L, rhs)
    return (x * (v - (along - tight @ beta) - beta.mT)).to(dtype)
