"""A linear hull with a shift of every declared constraint: g(w) <= s, h(w) = s, as rows A w <= b + S s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.hull.canonical import canonicalise
from sst_cvx.once import later
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")


class ShiftedHull:
    """Of one structure.

    Attributes:
        event: columns of the event in w, in row-major order; columns: how many w has.
        equalities: how many rows, the first ones, are equalities.
        slopes: S, ``(rows, shifts)``.

    Raises:
        NotImplementedError: other constraints than linear ones, or parameters with attributes of symmetry and alike.
    """

    def __init__(self, structure: Structure):
        if structure.hull.nonlinearity:
            raise NotImplementedError(f"this needs linear constraints, but {structure.hull.nonlinearity}.")
        if any(getattr(p, "_has_dim_reducing_attr", False) for p in structure.parameters):
            raise NotImplementedError("parameters of the hull are symmetric, diagonal or alike.")
        self._shifts = [cp.Parameter(c.shape, name=f"shift of {i}") for i, c in enumerate(structure.constraints)]
        constraints = [_shifted(c, s) for c, s in zip(structure.constraints, self._shifts, strict=True)]
        hull = self._hull = canonicalise(structure.variable, constraints, [*structure.parameters, *self._shifts])
        self.event, self.columns, self.equalities = hull.event, hull.columns, hull.dims.zero
        indices, indptr, shape = hull.pattern
        split = indptr[-2]
        places = indices[split:], np.arange(len(indices) - split)
        spread = sp.csr_array((np.ones(len(places[1])), places), shape=(shape[0], len(places[1])))
        columns = [np.r_[hull.parameter_places[s.name()]] for s in self._shifts]
        self.slopes: Any = sp.csr_array(spread @ hull.matrix[split:][:, np.concatenate(columns)])

    def rows(self, values: dict[str, np.ndarray]) -> tuple[Any, np.ndarray]:
        """A and b at parameter values by name."""
        nothing = {s.name(): np.zeros(s.shape) for s in self._shifts}
        return self._hull.rows(self._hull.theta(values | nothing))

    def by_constraint(self, s: Any) -> list[Any]:
        """Numbers of all shifts ``(shifts,)``, array or tensor, as one of each constraint, of its shape."""
        parts, at = [], 0
        for p in self._shifts:
            part, at = s[at : at + p.size], at + p.size
            backwards = part.reshape(p.shape[::-1])  # CVXPY counts by columns
            order = tuple(range(backwards.ndim))[::-1]
            parts.append(backwards.permute(order) if isinstance(s, torch.Tensor) else backwards.T)
        return parts


def _shifted(c: Any, shift: cp.Parameter) -> Any:
    from cvxpy.constraints.nonpos import Inequality, NonNeg, NonPos
    from cvxpy.constraints.zero import Equality, Zero

    if isinstance(c, Inequality):
        return c.args[0] - c.args[1] <= shift
    if isinstance(c, Equality):
        return c.args[0] - c.args[1] == shift
    if isinstance(c, Zero):
        return c.args[0] == shift
    if isinstance(c, NonPos):
        return c.args[0] <= shift
    if isinstance(c, NonNeg):
        return c.args[0] >= -shift
    raise NotImplementedError(f"this needs equalities and inequalities, not {c}.")
