"""The declared hull as numbers: extraction from CVXPY, and how far a point is outside.

CVXPY's own canonicalisation (for Clarabel, which keeps every constraint as a row) gives

    { w : b - A w in K },   w = (event variable, auxiliary variables, variables that CVXPY introduced),

with A and b affine in the hull's parameters. A hull whose K has only zero and nonnegative cones is *linear*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch


@dataclass
class LinearHull:
    """{ w : lower <= w <= upper, row_lower <= rows @ w <= row_upper }, singleton rows folded into the bounds.

    ``event`` are the columns of the event variable in row-major order.
    """

    lower: np.ndarray
    upper: np.ndarray
    rows: sp.csr_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    event: np.ndarray

    @classmethod
    def from_rows(cls, A: sp.csr_array, b: np.ndarray, equalities: int, event: np.ndarray) -> LinearHull:
        """From ``A w = b`` in the first ``equalities`` rows and ``A w <= b`` in the others."""
        A = sp.csr_array(A)
        A.eliminate_zeros()
        row_lower = np.where(np.arange(b.size) < equalities, b, -np.inf)
        columns = cast(tuple[int, int], A.shape)[1]
        lower, upper = np.full(columns, -np.inf), np.full(columns, np.inf)
        single = np.diff(A.indptr) == 1
        entries = A.indptr[:-1][single]
        places, factors = A.indices[entries], A.data[entries]
        with np.errstate(invalid="ignore"):
            ends = np.stack([row_lower[single] / factors, b[single] / factors])
        np.maximum.at(lower, places, ends.min(axis=0))
        np.minimum.at(upper, places, ends.max(axis=0))
        rest = ~single  # rows without any entry stay: they say "infeasible" when 0 does not satisfy them
        return cls(lower, upper, A[rest], row_lower[rest], b[rest], event)


@dataclass
class AffineRows:
    """{ w : A w = b in the first ``equalities`` rows, A w <= b in the others }, b = right + sensitivity @ theta.

    ``parameters`` are the places of each parameter, flattened by columns, in theta.
    """

    matrix: sp.csr_array
    right: np.ndarray
    sensitivity: np.ndarray
    equalities: int
    event: np.ndarray
    parameters: dict[str, slice]


@dataclass
class CompiledHull:
    """Constraints canonicalised once; ``at(values)`` evaluates them at parameter values."""

    variable: cp.Variable
    constraints: list[Any]
    parameters: list[cp.Parameter]
    linear: bool = field(init=False)
    auxiliary: list[cp.Variable] = field(init=False)
    observed: bool = field(init=False)  # every column belongs to a variable that the user declared

    def __post_init__(self) -> None:
        event, extra = self.variable, []
        if getattr(event, "_has_dim_reducing_attr", False):  # symmetric, PSD, diag, ...: entries share columns
            event = cp.Variable(self.variable.shape)
            extra = [event == self.variable]
        problem = cp.Problem(cp.Minimize(cp.sum(event)), [*self.constraints, *extra])
        data, chain, _ = cast(Any, problem.get_problem_data("CLARABEL"))
        compiled = data["param_prob"]
        variable_ids, parameter_ids = chain.compose_var_id_map(), chain.compose_param_id_map()

        self.auxiliary = [v for v in problem.variables() if v.id != event.id and v.id != self.variable.id]
        start = compiled.var_id_to_col[variable_ids.get(event.id, [event.id])[0]]
        columns = np.arange(event.size).reshape(event.shape, order="F").ravel()
        self._event = start + columns
        self._auxiliary_columns = []
        for v in self.auxiliary:
            first = compiled.var_id_to_col.get(variable_ids.get(v.id, [v.id])[0])
            reduced = getattr(v, "_has_dim_reducing_attr", False)
            self._auxiliary_columns.append(None if first is None or reduced else first + np.arange(v.size))
        dims = data["dims"]
        self.linear = not (dims.exp or dims.soc or dims.psd or dims.p3d or getattr(dims, "pnd", None))
        self._equalities, self._matrix = dims.zero, compiled.reduced_A.reduced_mat.tocsr()
        self._pattern = compiled.reduced_A.problem_data_index
        if self._pattern is None:
            raise ValueError("the hull is unbounded (it has no constraints): add bounds on the event variable.")
        self._columns = self._pattern[2][1] - 1
        known = event.size + sum(0 if c is None else c.size for c in self._auxiliary_columns)
        self.observed = self.linear and known == self._columns
        self._parameter_columns = {}
        for p in self.parameters:
            first = compiled.param_id_to_col[parameter_ids.get(p.id, [p.id])[0]]
            self._parameter_columns[p.name()] = slice(first, first + p.size)

    def at(self, values: dict[str, np.ndarray] | None = None) -> LinearHull:
        """The hull at parameter values (by name). Only for linear hulls."""
        theta = np.zeros(self._matrix.shape[1])
        theta[-1] = 1.0
        for p in self.parameters:
            theta[self._parameter_columns[p.name()]] = np.asarray((values or {})[p.name()]).ravel(order="F")
        indices, indptr, shape = self._pattern
        augmented = sp.csc_array((self._matrix @ theta, indices, indptr), shape=shape)
        A, b = -augmented[:, :-1], augmented[:, [-1]].toarray().ravel()
        return LinearHull.from_rows(sp.csr_array(A), b, self._equalities, self._event)

    def affine(self) -> AffineRows | None:
        """Rows whose right sides alone depend on the parameters; None where parameters multiply variables, or have
        attributes (symmetric, diag, ...) that CVXPY turns into fewer entries."""
        if any(getattr(p, "_has_dim_reducing_attr", False) for p in self.parameters):
            return None
        indices, indptr, shape = self._pattern
        split, constant = indptr[-2], self._matrix.shape[1] - 1
        data = self._matrix[:, [constant]].toarray().ravel()
        slopes = self._matrix[:, :constant]
        if slopes[:split].nnz:
            return None
        places = indices[split:]
        right, sensitivity = np.zeros(shape[0]), np.zeros((shape[0], constant))
        right[places], sensitivity[places] = data[split:], slopes[split:].toarray()
        A = -sp.csc_array((data[:split], indices[:split], indptr[:-1]), shape=(shape[0], shape[1] - 1))
        return AffineRows(sp.csr_array(A), right, sensitivity, self._equalities, self._event, self._parameter_columns)

    def join(self, x: torch.Tensor, auxiliary: Sequence[torch.Tensor]) -> torch.Tensor:
        """Columns w of an observed hull from the event ``(batch, size)`` and auxiliary values ``(batch, *shape)``."""
        w = x.new_zeros(x.shape[0], self._columns)
        w[:, self._event] = x
        for columns, value in zip(self._auxiliary_columns, auxiliary, strict=True):
            axes = range(value.dim() - 1, 0, -1)
            w[:, columns] = value.permute(0, *axes).reshape(x.shape[0], -1)
        return w


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
