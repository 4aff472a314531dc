"""Multipliers of the declared constraints, from a solution alone.

At x = X_t(u), and with g = u - t grad f(x), the multipliers of max <u, x> - t f(x) over the constraints are those of
max <g, x> over them: x solves both, and both have the same optimality conditions there. The second is a linear (or
conic) program, whatever f is and whichever path found x; CVXPY solves it and says in its own signs what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import numpy as np

from sst_cvx.once import CVXPY_LOCK
from sst_cvx.structure.base import Structure

_GAP = 1e-6  # by which x may miss the optimum of the second program, relative to 1 + |<g, x>|
_HIGHS = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-10, "threads": 1}
_CLARABEL = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


def multipliers(
    structure: Structure, g: np.ndarray, x: np.ndarray, values: list[dict[str, np.ndarray]], kept: np.ndarray | None
) -> Iterator[list[Any] | None]:
    """Of each declared constraint, element by element; None where x does not solve the second program.

    Args:
        g, x: ``(count, *event_shape)``, finite.
        values: the hull's parameters by element.
        kept: of masks, which items may be there, ``(count, *event_shape)``.
    """
    variable, direction = structure.variable, cp.Parameter(structure.event_shape)
    constraints, forbidden = list(structure.constraints), cp.Parameter(structure.event_shape)
    if kept is not None:
        constraints.append(cp.multiply(forbidden, variable) == 0)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(direction, variable))), constraints)
    linear = structure.hull.linear
    options: dict[str, Any] = (
        {"solver": "HIGHS", "highs_options": _HIGHS} if linear else {"solver": "CLARABEL"} | _CLARABEL
    )
    with CVXPY_LOCK:
        duals = [dual for c in structure.constraints for dual in c.dual_variables]
        leaves = [*problem.variables(), *structure.parameters, *duals]
        saved = [leaf.value for leaf in leaves]
        try:
            for i in range(len(g)):
                scale = np.abs(g[i]).max(initial=0.0) or 1.0
                direction.value = g[i] / scale
                if kept is not None:
                    forbidden.value = 1.0 - kept[i]
                for p in structure.parameters:
                    p.save_value(values[i][p.name()])
                problem.solve(**options)
                reached = float((g[i] * x[i]).sum()) / scale
                if problem.status != cp.OPTIMAL or problem.value - reached > _GAP * (1 + abs(reached)):  # type: ignore[operator]
                    yield None
                else:
                    yield [_value(c, scale) for c in structure.constraints]
        finally:
            for leaf, value in zip(leaves, saved, strict=True):
                leaf.save_value(value)


def _value(constraint: Any, scale: float) -> Any:
    """Of a constraint's shape; of cones with several parts, one for each."""
    found = constraint.dual_value
    if isinstance(found, (list, tuple)):
        return [np.asarray(part, dtype=float) * scale for part in found]
    return np.asarray(found, dtype=float).reshape(constraint.shape) * scale
