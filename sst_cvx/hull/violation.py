"""How far points are outside a hull."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import torch

from sst_cvx.hull.linear import LinearHull


class ViolationOfLinearHull:
    """How far points are outside a linear hull without parameters: batched, on their device and in their dtype.

    With ``event_only`` the rows that involve auxiliary variables are left out (their values are unknown).
    """

    def __init__(self, hull: LinearHull, event_only: bool):
        rows, keep = hull.rows, np.arange(hull.row_upper.size)
        columns = np.arange(hull.lower.size)
        if event_only:
            columns = hull.event
            other = np.ones(hull.lower.size, bool)
            other[hull.event] = False
            keep = np.flatnonzero(np.asarray(abs(rows) @ other.astype(float)).ravel() == 0)
        dense = rows[keep][:, columns].toarray()
        bounds = _bounds(hull.lower[columns], hull.upper[columns])
        self._numpy = (dense.T.copy(), bounds, _bounds(hull.row_lower[keep], hull.row_upper[keep]))
        self._cache: dict[tuple[torch.dtype, torch.device], tuple[torch.Tensor, ...]] = {}

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        """Largest violation of points ``(batch, columns)``, relative to 1 + the size of the bound; <= 0 inside."""
        key = (w.dtype, w.device)
        if key not in self._cache:
            self._cache[key] = tuple(torch.as_tensor(a, dtype=w.dtype, device=w.device) for a in self._numpy)
        rows, bounds, row_bounds = self._cache[key]
        worst = _excess(w, bounds)
        return torch.maximum(worst, _excess(w @ rows, row_bounds)) if rows.shape[1] else worst


def _bounds(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Lower and upper bounds and the scales of their violations, (4, columns)."""
    scales = [1 / (1 + np.where(np.isfinite(end), np.abs(end), 0.0)) for end in (lower, upper)]
    return np.stack([lower, upper, *scales])


def _excess(w: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    lower, upper, lower_scale, upper_scale = bounds.unbind()
    return torch.maximum((lower - w) * lower_scale, (w - upper) * upper_scale).amax(-1)


def violation_by_cvxpy(
    variables: Sequence[cp.Variable],
    constraints: Sequence[Any],
    parameters: Sequence[cp.Parameter],
    variable_values: Sequence[np.ndarray],
    parameter_values: Sequence[np.ndarray],
) -> np.ndarray:
    """Largest violation ``(batch,)`` of any CVXPY constraints, element by element: the way for every cone.

    Values have shape ``(batch, *shape)``; values that were set before are put back.
    """
    leaves = [*variables, *parameters]
    saved = [leaf.value for leaf in leaves]
    values = [*variable_values, *parameter_values]
    worst = np.zeros(len(values[0]))
    try:
        for i in range(len(worst)):
            for leaf, value in zip(leaves, values, strict=True):
                leaf.save_value(value[i])
            size = 1 + max((np.abs(v[i]).max(initial=0.0) for v in values), default=0.0)
            parts = [np.max(c.violation(), initial=0.0) for c in constraints]
            parts += [_attribute_violation(v, x[i]) for v, x in zip(variables, variable_values, strict=True)]
            worst[i] = max(parts, default=0.0) / size
    finally:
        for leaf, value in zip(leaves, saved, strict=True):
            leaf.save_value(value)
    return worst


def _attribute_violation(variable: cp.Variable, value: np.ndarray) -> float:
    """Distance to what the variable's own attributes (nonneg, PSD, symmetric, bounds, ...) demand."""
    return float(np.abs(variable.project(value) - value).max(initial=0.0))
