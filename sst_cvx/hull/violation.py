"""How far points are outside a hull, relative to 1 + the size of what bounds them; at most 0 inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.host import is_fake
from sst_cvx.hull.linear import AffineRows, LinearHull
from sst_cvx.once import CVXPY_LOCK, constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


class ViolationOfLinearHull:
    """Of a linear hull without parameters: batched, on the points' device, in float64.

    With ``event_only`` the rows that involve auxiliary variables are left out (their values are unknown).
    """

    def __init__(self, hull: LinearHull, event_only: bool):
        rows, keep = hull.rows, np.arange(hull.row_upper.size)
        columns = np.arange(hull.lower.size)
        if event_only:
            columns, keep = hull.event, _over_event_alone(rows, hull.event)
        dense = rows[keep][:, columns].toarray()
        bounds = _bounds(hull.lower[columns], hull.upper[columns])
        row_bounds = _bounds(hull.row_lower[keep], hull.row_upper[keep])
        self._numpy = (dense.T.copy(), bounds, row_bounds)
        self._box, self._row_box = _Box(bounds), _Box(row_bounds) if keep.size else None
        self._cache: dict[tuple[torch.dtype, torch.device], tuple[torch.Tensor, ...]] = {}

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        """Largest violation of points ``(batch, columns)``, ``(batch,)``."""
        w = w.double()  # sums of thousands of right float32 entries are off by more than the tolerance
        rows, bounds, row_bounds = self._like(w)
        worst = _excess(w, bounds)
        return torch.maximum(worst, _excess(w @ rows, row_bounds)) if rows.shape[1] else worst

    def surely_within(self, w: torch.Tensor, tolerance: float) -> bool:
        """Whether no violation exceeds the tolerance, by the extreme entries alone; False says nothing."""
        if torch._C._are_functorch_transforms_active() or not w.numel() or not self._box.holds(w, tolerance):
            return False
        return self._row_box is None or self._row_box.holds(w @ self._like(w)[0], tolerance)

    def _like(self, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows and bounds of the dtype and on the device of the points."""
        key = (w.dtype, w.device)
        if torch.compiler.is_compiling() and key not in self._cache:
            return tuple(torch.from_numpy(a).to(w.device, w.dtype) for a in self._numpy)
        if key not in self._cache:
            with constants():
                made = tuple(torch.from_numpy(a).to(w.device, w.dtype) for a in self._numpy)
            if is_fake(made[0]):  # nothing to keep
                return made
            self._cache[key] = made
        return self._cache[key]


class _Box:
    """Bounds of all columns, asked with the extreme entries of a batch."""

    def __init__(self, bounds: np.ndarray):
        lower, upper = bounds[:2]
        self._ends, self._scales = (lower, upper), (1 / bounds[2], 1 / bounds[3])
        self._one = float(lower.max()), float(upper.min())  # the interval that is within every column's
        self._uniform = self._one[0] <= self._one[1]
        size = 1 + min(abs(end) for end in self._one)  # no larger than any column's own
        self._size = size if np.isfinite(size) else 1.0

    def holds(self, w: torch.Tensor, tolerance: float) -> bool:
        if self._uniform:
            (low, high), room = w.aminmax(), tolerance * self._size
            return bool(low >= self._one[0] - room) and bool(high <= self._one[1] + room)
        low, high = (part.numpy(force=True) for part in w.aminmax(dim=0))
        lower, upper = self._ends
        below, above = (tolerance * scale for scale in self._scales)
        return bool((low >= lower - below).all()) and bool((high <= upper + above).all())


class ViolationOfAffineRows:
    """Of a linear hull whose right sides depend on parameters: rows over the event alone, scaled to a largest entry
    of 1."""

    def __init__(self, rows: AffineRows):
        keep = _over_event_alone(rows.matrix, rows.event)
        matrix = sp.csr_array(rows.matrix[keep][:, rows.event])
        scale = 1 / np.maximum(abs(matrix).max(axis=1).toarray().ravel(), 1e-300)
        self._affine, self._equal = rows, keep < rows.equalities
        self._rows: Any = sp.diags_array(scale) @ matrix
        self._right = rows.right[keep] * scale
        self._sensitivity: Any = sp.diags_array(scale) @ rows.sensitivity[keep]

    def __call__(self, x: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of points ``(batch, size)`` at parameters ``(batch, *shape)``."""
        theta = self._affine.theta({name: v.detach() for name, v in values.items()}).numpy()
        right = self._right + (self._sensitivity @ theta.T).T
        excess = (self._rows @ x.detach().to("cpu", torch.float64).numpy().T).T - right
        excess = np.where(self._equal, np.abs(excess), excess) / (1 + np.abs(right))
        return torch.from_numpy(excess.max(axis=1, initial=-np.inf)).to(x.device)


def _over_event_alone(rows: Any, event: np.ndarray) -> np.ndarray:
    """Numbers of the rows without any other column."""
    other = np.ones(rows.shape[1], bool)
    other[event] = False
    return np.flatnonzero(np.asarray(abs(rows) @ other.astype(float)).ravel() == 0)


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

    Values have shape ``(batch, *shape)``; values that were set before are put back. One thread at a time: the
    variables are the user's own.
    """
    leaves = [*variables, *parameters]
    values = [*variable_values, *parameter_values]
    worst = np.zeros(len(values[0]))
    with CVXPY_LOCK:
        saved = [leaf.value for leaf in leaves]
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
