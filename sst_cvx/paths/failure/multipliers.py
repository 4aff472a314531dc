"""Multipliers of the declared constraints, from a solution alone.

At x = X_t(u), and with g = u - t grad f(x), the multipliers of max <u, x> - t f(x) over the constraints are those of
max <g, x> over them: x solves both, and both have the same optimality conditions there. The second is a linear (or
conic) program, whatever f is and whichever path found x. CVXPY's ``dual_value`` is the derivative of the maximum by a
shift of the constraint: z = S' y for multipliers y of the rows A w <= b + S s. While the rows with y > 0 stay the same,
y is a linear function of g, by A' y = g: so are z and its derivatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from sst_cvx.once import CVXPY_LOCK, later
from sst_cvx.paths.failure.shifted import ShiftedHull
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.optimize as optimize
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")
    optimize = later("scipy.optimize")

_GAP = 1e-6  # by which x may miss the optimum of the second program, relative to 1 + |<g, x>|, or to 1 + |u|
_HIGHS = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-10}
_CLARABEL = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
_ACTIVE = 1e-9  # multipliers that are more than rounding, relative to |g|


def by_linear_program(
    hull: ShiftedHull,
    g: torch.Tensor,
    x: np.ndarray,
    noise: float,
    size: float,
    values: dict[str, np.ndarray],
    kept: np.ndarray | None,
) -> list[torch.Tensor] | None:
    """Of each declared constraint of a linear hull, functions of g; None where x does not solve the second program.

    Args:
        g, x: ``(size,)``, float64, on the CPU.
        noise: rounding of <g, x> for an x of size 1.
        size: of the utilities. Where constraints hardly act, g is what the error of the solution leaves of them.
        values: the hull's parameters.
        kept: of masks, which items may be there, ``(size,)``, bool.
    """
    A, b = hull.rows(values)
    S, equal = hull.slopes, np.arange(len(b)) < hull.equalities
    if kept is not None:
        identity: Any = sp.eye_array(hull.columns, format="csr")
        pins = identity[hull.event[~kept]]
        A, b = sp.csr_array(sp.vstack([A, pins])), np.concatenate([b, np.zeros(pins.shape[0])])
        S = sp.csr_array(sp.vstack([S, sp.csr_array((pins.shape[0], S.shape[1]))]))
        equal = np.concatenate([equal, np.ones(pins.shape[0], bool)])
    direction = g.detach().numpy()
    scale = float(np.abs(direction).max(initial=0.0))
    if scale <= noise:  # no constraint is active
        return hull.by_constraint(torch.zeros(hull.slopes.shape[1], dtype=torch.float64, device="cpu"))
    y, most = _solved(A, b, equal, hull, direction / scale)
    reached = float(direction @ x) / scale
    if y is None or not _solves(most, reached, scale, noise, size):
        return None
    z = torch.from_numpy(S.T @ y * scale)
    if g.requires_grad:
        active = equal | (y > _ACTIVE)
        inverse = np.linalg.pinv(A[np.flatnonzero(active)].toarray().T, rcond=1e-12)
        linear = S[np.flatnonzero(active)].T @ inverse[:, hull.event]
        z = z + torch.from_numpy(linear) @ (g - g.detach())
    return hull.by_constraint(z)


def _solved(
    A: Any, b: np.ndarray, equal: np.ndarray, hull: ShiftedHull, g: np.ndarray
) -> tuple[np.ndarray | None, float]:
    """Multipliers of max <g, w> over A w <= b (= where ``equal``), and the maximum; None if HiGHS fails."""
    cost = np.zeros(hull.columns)
    cost[hull.event] = -g
    same, less = np.flatnonzero(equal), np.flatnonzero(~equal)
    upper = (A[less], b[less]) if less.size else (None, None)
    fixed = (A[same], b[same]) if same.size else (None, None)
    found = cast(Any, optimize.linprog(cost, *upper, *fixed, bounds=(None, None), method="highs", options=_HIGHS))
    if found.status != 0:
        return None, 0.0
    y = np.zeros(b.size)
    y[less], y[same] = -found.ineqlin.marginals, -found.eqlin.marginals
    return y, -float(found.fun)


def _solves(most: float, reached: float, scale: float, noise: float, size: float) -> bool:
    """Whether <g, x> is the maximum, both divided by ``scale``, to the accuracy of the solution."""
    missed = abs(most - reached)
    return missed <= (_GAP + noise / scale) * (1 + abs(reached)) or missed * scale <= _GAP * (1 + size)


def by_cvxpy(
    structure: Structure,
    g: np.ndarray,
    x: np.ndarray,
    noise: list[float],
    sizes: list[float],
    values: list[dict[str, np.ndarray]],
) -> Iterator[list[Any] | None]:
    """The same of any hull, element by element, as numbers: ``g`` and ``x`` are ``(count, *event_shape)``."""
    variable, direction = structure.variable, cp.Parameter(structure.event_shape)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(direction, variable))), structure.constraints)
    duals = [dual for c in structure.constraints for dual in c.dual_variables]
    leaves = [*problem.variables(), *structure.parameters, *duals]
    with CVXPY_LOCK:
        saved = [leaf.value for leaf in leaves]
        try:
            for i in range(len(g)):
                if np.abs(g[i]).max(initial=0.0) <= noise[i]:  # no constraint is active
                    yield [_zeros(c) for c in structure.constraints]
                    continue
                scale = np.abs(g[i]).max()
                direction.value = g[i] / scale
                for p in structure.parameters:
                    p.save_value(values[i][p.name()])
                with warnings.catch_warnings(action="ignore"):  # what is inaccurate is not returned
                    most = cast(Any, problem.solve(solver="CLARABEL", **_CLARABEL))
                reached = float((g[i] * x[i]).sum()) / scale
                right = problem.status == cp.OPTIMAL and _solves(most, reached, scale, noise[i], sizes[i])
                yield [_value(c, scale) for c in structure.constraints] if right else None
        finally:
            for leaf, value in zip(leaves, saved, strict=True):
                leaf.save_value(value)


def _zeros(constraint: Any) -> Any:
    parts = [torch.zeros(d.shape, dtype=torch.float64, device="cpu") for d in constraint.dual_variables]
    return parts if len(parts) > 1 else parts[0].reshape(constraint.shape)


def _value(constraint: Any, scale: float) -> Any:
    """Of a constraint's shape; of cones with several parts, one for each."""
    found = constraint.dual_value
    if isinstance(found, (list, tuple)):
        return [scale * torch.as_tensor(part, dtype=torch.float64, device="cpu") for part in found]
    return scale * torch.as_tensor(found, dtype=torch.float64, device="cpu").reshape(constraint.shape)
