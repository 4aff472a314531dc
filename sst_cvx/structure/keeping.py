"""Which of some points keep CVXPY constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.hull.compiled import CompiledHull
from sst_cvx.hull.violation import violation_by_cvxpy
from sst_cvx.once import CVXPY_LOCK, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")

_TOLERANCE = 1e-9  # relative to 1 + the size of the right side, in rows of a largest entry of 1: HiGHS's
_DISTANCE = 1e-7  # to the nearest point that keeps constraints with auxiliary variables


def keep(constraints: list[Any], variable: cp.Variable, points: torch.Tensor) -> torch.Tensor:
    """Bool ``(count,)`` for points ``(count, *event_shape)``; constraints without parameters.

    Linear ones on the variable alone: by their rows. Others on it alone: by CVXPY, point by point. With auxiliary
    variables: by the distance to the nearest point that keeps them, a program a point.
    """
    if not len(points):
        return torch.zeros(0, dtype=torch.bool)
    hull = CompiledHull(variable, constraints, [])
    with CVXPY_LOCK:
        own = {v.id for c in constraints for v in c.variables()} <= {variable.id}
        if own and hull.linear and hull.canonical.columns == variable.size:
            return torch.from_numpy(_by_rows(hull, points.flatten(1).numpy()))
        if own:
            return torch.from_numpy(violation_by_cvxpy([variable], constraints, [], [points.numpy()], []) <= _TOLERANCE)
        return torch.from_numpy(_by_distance(constraints, variable, points.numpy()))


def _by_rows(hull: CompiledHull, points: np.ndarray) -> np.ndarray:
    A, b = hull.canonical.rows(hull.canonical.theta({}))
    A = sp.csr_array(A)[:, hull.canonical.event]
    scale = 1 / np.maximum(np.abs(A).max(axis=1).toarray().ravel(), 1e-300)
    with np.errstate(invalid="ignore"):
        excess = ((A @ points.T).T - b) * scale
        excess[:, : hull.canonical.dims.zero] = np.abs(excess[:, : hull.canonical.dims.zero])
        room = _TOLERANCE * (1 + np.abs(np.where(np.isfinite(b), b, 0.0)) * scale)
    return (excess <= room).all(axis=1)


def _by_distance(constraints: list[Any], variable: cp.Variable, points: np.ndarray) -> np.ndarray:
    place = cp.Parameter(variable.shape)
    problem = cp.Problem(cp.Minimize(cp.norm_inf(cp.vec(variable - place, order="C"))), constraints)
    saved = [v.value for v in problem.variables()]
    kept = np.zeros(len(points), bool)
    for i, point in enumerate(points):
        place.value = point
        distance: Any = problem.solve()
        kept[i] = problem.status in ("optimal", "optimal_inaccurate") and distance <= _DISTANCE
    for v, value in zip(problem.variables(), saved, strict=True):
        v.save_value(value)
    return kept
