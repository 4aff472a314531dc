"""The derivative of the soft argmax over a polytope, by the implicit function theorem.

It is that of the KKT system of the active set (``kkt``), at the solution itself and not of the last barrier problem.
As a function of the solution it is differentiable again, through ``_Implicit``:

    dw = K(D)^-1 p   =>   for a cotangent v of dw and a = K(D)^-1 v:   dp = a,   dD_i = (dw_i / D_i) (a_i / D_i),

where D = 1 / (t f'') of the solution, and dw_i / D_i is computed as p_i - (M' dy)_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sst_cvx import native
from sst_cvx.errors import Elements
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.batched import BatchedRows
from sst_cvx.paths.interior_point.kkt import ActiveSystem
from sst_cvx.paths.interior_point.linear_algebra import LinearAlgebra
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.native import answers
from sst_cvx.paths.interior_point.native.tables import Tables


@dataclass
class Cotangents:
    """Of what a solution depends on; each is computed where it is asked for. ``reached``: whether free columns can take
    up the probes."""

    model: Model
    rows: LinearAlgebra
    side: torch.Tensor
    p: torch.Tensor
    dw: torch.Tensor
    dy: torch.Tensor
    reached: torch.Tensor

    @property
    def u(self) -> torch.Tensor:
        """Of the utilities, ``(batch, event_columns)``."""
        return self.dw[:, : self.model.event_columns]

    @property
    def right(self) -> torch.Tensor:
        """Of the right sides, ``(batch, rows)``."""
        return self.dy

    def matrix(self, w: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of M without slacks ``(batch, rows, columns)``, at a solution: by t f'(w) + M'y = u, M w = r."""
        count = w.shape[1] - self.rows.slacks
        outer = y[:, :, None] * self.dw[:, None, :count] + self.dy[:, :, None] * w[:, None, :count]
        return -outer

    @property
    def bounds(self) -> torch.Tensor:
        """Of lower and upper bounds, ``(batch, 2, columns)``: the dual residuals of the columns that are there."""
        dual = self.rows.dual_residual(self.p, self.dy)
        return torch.stack([torch.where(side, dual, 0.0) for side in (self.side < 0, self.side > 0)], 1)


def differentiate(
    model: Model,
    x: torch.Tensor,
    t: torch.Tensor,
    side: torch.Tensor,
    cotangent: torch.Tensor,
    elements: Elements,
    probes: torch.Tensor | None = None,
    rows: LinearAlgebra | None = None,
) -> Cotangents:
    """Vector-Jacobian product at solutions, differentiable in x and the cotangent.

    Args:
        model: f and M.
        x: event columns of the solutions, ``(batch, event_columns)``.
        t: temperatures, ``(batch, 1)``.
        side: where columns are fixed (-1, 0, 1), ``(batch, columns)``.
        cotangent: of x.
        elements: what the rows are called in errors.
        probes: changes of right sides ``(batch, rows)`` that free columns may have to take up.
        rows: M, if it is not the model's.

    Raises:
        SolveError: the KKT system could not be solved.
    """
    rows = rows or model.rows
    inverse_curvature = model.f.inverse_curvature(x) / (t * model.weights)
    p = torch.nn.functional.pad(cotangent, (0, model.columns - model.event_columns))
    q = p.new_zeros(len(p), rows.equalities + rows.slacks)
    coldest = t * model.weights.amin()
    given = inverse_curvature, p, q, coldest, side == 0, probes
    dw, dy, reached = _Implicit.apply(*given, rows, elements, model.tables(len(p)))  # type: ignore[misc]
    return Cotangents(model, rows, side, p, dw, dy, reached)


class _Implicit(torch.autograd.Function):
    """(dw, dy) of the active system for right sides p and q, differentiable in D, p and q."""

    @staticmethod
    def forward(
        ctx: Any,
        inverse_curvature: torch.Tensor,
        p: torch.Tensor,
        q: torch.Tensor,
        t: torch.Tensor,
        free: torch.Tensor,
        probes: torch.Tensor | None,
        rows: LinearAlgebra,
        elements: Elements,
        tables: Tables | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        unit = tolerances.DERIVATIVE_UNIT * p.abs().amax(1) / t[:, 0]
        loops = tables is not None and all(map(native.serves, (inverse_curvature, p, q, t, free)))
        by = _by_loops if loops else _by_tensors
        dw, dy, error, reached = by(tables, rows, inverse_curvature, t, free, p, q, unit, probes)
        message = (
            "the KKT system that gives the gradient could not be solved for {elements}. Raise the temperature, or use "
            "path='layer'."
        )
        dw, dy = elements.refuse(~(error <= tolerances.DERIVATIVE), message, dw, dy)
        ctx.given = rows, elements, tables
        ctx.save_for_backward(inverse_curvature, p, t, free, dy)
        ctx.mark_non_differentiable(reached)
        return dw, dy, reached

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        inverse_curvature, p, t, free, dy = ctx.saved_tensors
        v_w, v_y, _ = cotangents
        a, b, _ = _Implicit.apply(inverse_curvature, v_w, v_y, t, free, None, *ctx.given)  # type: ignore[misc]
        events = inverse_curvature.shape[1]
        rows = ctx.given[0]
        over_d = [rows.dual_residual(r, s)[:, :events] for r, s in ((p, dy), (v_w, b))]  # dw_i / D_i, a_i / D_i
        on_d = torch.where(free[:, :events], over_d[0] * over_d[1], 0.0)
        return on_d, torch.where(free, a, 0.0), b, None, None, None, None, None, None


def _by_tensors(
    tables: Any, rows: LinearAlgebra, inverse_curvature: torch.Tensor, t: torch.Tensor, free: torch.Tensor, *given: Any
) -> tuple[torch.Tensor, ...]:
    """dw, dy, their errors and whether free columns take up the probes."""
    *sides, probes = given
    system = ActiveSystem(rows, inverse_curvature, t, free)
    dw, dy, error = system.solve_surely(*sides)
    reached = torch.ones_like(error, dtype=torch.bool) if probes is None else system.reaches(probes)
    return dw, dy, error, reached


def _by_loops(tables: Any, rows: LinearAlgebra, *given: Any) -> tuple[torch.Tensor, ...]:
    """The same by compiled loops; by tensors what these do not solve."""
    parts: Any = (*given, rows.core if isinstance(rows, BatchedRows) else None)
    found = answers.differentiate(tables, *parts)
    left = torch.nonzero(~(found[2] <= tolerances.RESCUED)).flatten()
    if left.numel():
        some: Any = [part if part is None else part[left] for part in given]
        again = _by_tensors(None, rows[left], *some)
        for part, other in zip(found, again, strict=True):
            part[left] = other
    return found
