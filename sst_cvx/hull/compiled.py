"""The declared hull as numbers: extraction from CVXPY.

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

from sst_cvx.hull.linear import AffineRows, LinearHull


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
