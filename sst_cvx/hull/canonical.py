"""Constraints as CVXPY canonicalises them for Clarabel, which keeps every constraint as a row:

    { w : b - A w in K },   w = (event variable, auxiliary variables, variables that CVXPY introduced),

with A and b affine in the hull's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sst_cvx.once import later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")


@dataclass(frozen=True)
class Canonical:
    """One canonicalisation.

    Attributes:
        linear: K has only zero and nonnegative cones.
        auxiliary: the user's own variables besides the event.
        observed: every column belongs to a variable that the user declared.
        event: columns of the event variable, in row-major order.
        auxiliary_columns: those of each auxiliary variable, None where it has none.
        parameter_places: where each parameter's values, flattened by columns, stand in theta; theta ends with a 1.
        matrix: theta to the stored entries of [-A, b]; pattern: their (indices, indptr, shape), in CSC.
        dims: CVXPY's description of K.
    """

    linear: bool
    auxiliary: list[cp.Variable]
    observed: bool
    event: np.ndarray
    auxiliary_columns: list[np.ndarray | None]
    parameter_places: dict[str, slice]
    matrix: sp.csr_array
    pattern: tuple[np.ndarray, np.ndarray, tuple[int, int]]
    dims: Any

    @property
    def columns(self) -> int:
        return self.pattern[2][1] - 1

    def rows(self, theta: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
        """A and b at parameter values.

        Raises:
            ValueError: a coefficient, or a bound that is met, is not finite.
        """
        indices, indptr, shape = self.pattern
        augmented = sp.csc_array((self.matrix @ theta, indices, indptr), shape=shape)
        A, b = sp.csr_array(-augmented[:, :-1]), augmented[:, [-1]].toarray().ravel()
        finite = np.isfinite(b)
        finite[self.dims.zero : self.dims.zero + self.dims.nonneg] |= b[self.dims.zero :][: self.dims.nonneg] == np.inf
        if not (finite.all() and np.isfinite(A.data).all()):
            raise ValueError(
                "a coefficient or a right side in the hull's constraints is not finite: replace NaN and infinity by "
                "numbers, or leave these constraints out."
            )
        return A, b

    def theta(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Parameter values, by name, as one vector."""
        theta = np.zeros(cast(tuple[int, int], self.matrix.shape)[1])
        theta[-1] = 1.0
        for name, place in self.parameter_places.items():
            theta[place] = np.asarray(values[name]).ravel(order="F")
        return theta


def backend(problem: cp.Problem) -> str | None:
    """What CVXPY should canonicalise with: of arrays of three dimensions and more, only this, and it warns else."""
    return "SCIPY" if any(v.ndim > 2 for v in problem.variables()) else None


def canonicalise(variable: cp.Variable, constraints: Sequence[Any], parameters: Sequence[cp.Parameter]) -> Canonical:
    """Constraints on an event variable as numbers.

    Raises:
        ValueError: there are no constraints.
    """
    event, extra = variable, []
    if getattr(event, "_has_dim_reducing_attr", False):  # symmetric, PSD, diag, ...: entries share columns
        event = cp.Variable(variable.shape)
        extra = [event == variable]
    problem = cp.Problem(cp.Minimize(cp.sum(event)), [*constraints, *extra])
    data, chain, _ = cast(Any, problem.get_problem_data("CLARABEL", canon_backend=backend(problem)))
    compiled, dims = data["param_prob"], data["dims"]
    variable_ids, parameter_ids = chain.compose_var_id_map(), chain.compose_param_id_map()
    pattern = compiled.reduced_A.problem_data_index
    if pattern is None:
        raise ValueError("the hull is unbounded (it has no constraints): add bounds on the event variable.")

    def first(v: cp.Variable) -> int | None:
        return compiled.var_id_to_col.get(variable_ids.get(v.id, [v.id])[0])

    auxiliary = [v for v in problem.variables() if v.id not in (event.id, variable.id)]
    places: list[np.ndarray | None] = []
    for v in auxiliary:
        start = None if getattr(v, "_has_dim_reducing_attr", False) else first(v)
        places.append(None if start is None else start + np.arange(v.size))
    starts = {p.name(): compiled.param_id_to_col[parameter_ids.get(p.id, [p.id])[0]] for p in parameters}
    linear = not (dims.exp or dims.soc or dims.psd or dims.p3d or getattr(dims, "pnd", None))
    known = event.size + sum(0 if c is None else c.size for c in places)
    return Canonical(
        linear,
        auxiliary,
        linear and known == pattern[2][1] - 1,
        cast(int, first(event)) + np.arange(event.size).reshape(event.shape, order="F").ravel(),
        places,
        {p.name(): slice(starts[p.name()], starts[p.name()] + p.size) for p in parameters},
        compiled.reduced_A.reduced_mat.tocsr(),
        pattern,
        dims,
    )
