"""The soft argmax over a polytope as a differentiable function: interior point forward, implicit function backward.

The derivative is that of the KKT system of the active set (``active_system``), at the solution itself and not of the
last barrier problem. As a function of the solution it is differentiable again, through ``_Implicit``:

    dw = K(D)^-1 p   =>   for a cotangent v of dw and a = K(D)^-1 v:   dp = a,   dD_i = (dw_i / D_i) (a_i / D_i),

where D = 1 / (t f'') of the solution, and dw_i / D_i is computed as p_i - (M' dy)_i.
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.errors import Elements
from sst_cvx.paths.interior_point.dense import LinearAlgebra
from sst_cvx.paths.interior_point.kkt import ActiveSystem


class _Implicit(torch.autograd.Function):
    """(dw, dy) of the active system for right sides p and q, differentiable in D, p and q."""

    @staticmethod
    def forward(
        ctx: Any, compliance: Any, p: Any, q: Any, t: Any, free: Any, rows: LinearAlgebra, elements: Elements
    ) -> Any:
        system = ActiveSystem(rows, compliance, t, free)
        unit = 1e-3 * p.abs().amax(1) / t[:, 0]
        dw, dy, error = system.solve_surely(p, q, unit)
        wrong = torch.nonzero(~(error <= 1e-7)).flatten()
        if wrong.numel():
            raise elements.error(
                "the KKT system that gives the gradient could not be solved for {elements}. Raise the temperature, or "
                "use path='layer'.",
                wrong.tolist(),
            )
        ctx.rows, ctx.elements = rows, elements
        ctx.save_for_backward(compliance, p, t, free, dy)
        return dw, dy

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        compliance, p, t, free, dy = ctx.saved_tensors
        v_w, v_y = cotangents
        a, b = _Implicit.apply(compliance, v_w, v_y, t, free, ctx.rows, ctx.elements)
        curved = compliance.shape[1]
        forces = [ctx.rows.force(r, s)[:, :curved] for r, s in ((p, dy), (v_w, b))]
        inside = free[:, :curved]
        return torch.where(inside, forces[0] * forces[1], 0.0), torch.where(free, a, 0.0), b, None, None, None, None


class PolytopeArgmax(torch.autograd.Function):
    """x(u, right sides, bounds) for batches of utilities in units where the temperature is a constant.

    ``solver.solve`` gives w ``(batch, columns)``, the sides at which columns are fixed (-1, 0, 1) and which elements
    are right; others have no gradient here. The outputs are x, w and these.
    """

    @staticmethod
    def forward(ctx: Any, u: Any, t: Any, right: Any, bounds: Any, solver: Any, elements: Elements) -> Any:
        w, side, accepted = solver.solve(u, t, right, bounds)
        x = w[:, : u.shape[1]].clone()
        ctx.solver, ctx.elements = solver, elements
        ctx.save_for_backward(x, t, side, accepted)
        ctx.mark_non_differentiable(w, accepted)
        return x, w, accepted

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        x, t, side, accepted = ctx.saved_tensors
        solver, curved = ctx.solver, x.shape[1]
        v = torch.where(accepted[:, None], cotangents[0], 0.0)
        p = torch.nn.functional.pad(v, (0, side.shape[1] - curved))
        compliance = solver.regularizer.compliance(torch.where(accepted[:, None], x, solver.safe)) / (
            t * solver.weights
        )
        free = (side == 0) & accepted[:, None]
        coldest = t * solver.weights.amin()
        q = p.new_zeros(len(p), solver.rows.equalities + solver.rows.slacks)
        dw, dy = _Implicit.apply(compliance, p, q, coldest, free, solver.rows, ctx.elements)
        on_right = on_bounds = None
        if ctx.needs_input_grad[2]:
            on_right = dy
        if ctx.needs_input_grad[3]:
            force = solver.rows.force(p, dy)
            on_bounds = torch.stack([torch.where(side < 0, force, 0.0), torch.where(side > 0, force, 0.0)], 1)
        return dw[:, :curved], None, on_right, on_bounds, None, None
