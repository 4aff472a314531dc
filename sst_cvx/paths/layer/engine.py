"""Cone programs for CvxpyLayer, solved by an engine of choice and never believed unchecked.

cvxpylayers hands each element of a batch to a ``SolverInterface`` as the values of

    minimise 1/2 x'Px + c'x   subject to   A x + s = b,  s in K.

``ConicSolver`` unpacks these, lets a subclass solve and differentiate, and checks the optimality conditions of every
element itself (primal and dual residual, complementarity): diffcp with Clarabel, and Moreau, return numbers without
an error for infeasible, unbounded or capped problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.solvers.conic_solvers.scs_conif import dims_to_solver_dict
from cvxpylayers.interfaces.base import SolverInterface

from sst_cvx.errors import SolveError


@dataclass
class ConeValues:
    """Sparsity of one compiled cone program: where the values of P, A and b go."""

    A_indices: np.ndarray  # CSC
    A_indptr: np.ndarray
    A_shape: tuple[int, int]
    b_rows: np.ndarray
    P_indices: np.ndarray
    P_indptr: np.ndarray
    cones: dict[str, Any]

    @classmethod
    def from_layer(cls, context: Any) -> ConeValues:
        """From cvxpylayers' ``LayersContext``; its A has b as the last column and the opposite sign."""
        indices, indptr, (m, n_plus_1) = context.reduced_A.problem_data_index
        split, n = indptr[-2], n_plus_1 - 1
        P = context.reduced_P.problem_data_index if context.reduced_P is not None else None
        P_indices, P_indptr = (np.zeros(0, int), np.zeros(n + 1, int)) if P is None else P[:2]
        cones = dims_to_solver_dict(context.cone_dims)
        return cls(indices[:split], indptr[:-1], (m, n), indices[split : indptr[-1]], P_indices, P_indptr, cones)

    def unpack(self, A_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(batch, nnz + nb)`` values to ``(batch, nnz)`` values of A and dense b ``(batch, m)``."""
        nnz = self.A_indices.size
        b = np.zeros((A_values.shape[0], self.A_shape[0]))
        b[:, self.b_rows] = A_values[:, nnz:]
        return -A_values[:, :nnz], b

    def pack_gradient(self, dA: np.ndarray, db: np.ndarray) -> np.ndarray:
        """The transpose of ``unpack``."""
        return np.hstack([-dA, db[:, self.b_rows]])

    def A(self, values: np.ndarray) -> sp.csc_matrix:
        return sp.csc_matrix((values, self.A_indices, self.A_indptr), shape=self.A_shape)

    def P(self, values: np.ndarray | None) -> sp.csc_matrix:
        n = self.A_shape[1]
        if values is None or values.size == 0:
            return sp.csc_matrix((n, n))
        return sp.csc_matrix((values, self.P_indices, self.P_indptr), shape=(n, n))


def optimality_residual(
    P: sp.csc_matrix, c: np.ndarray, A: sp.csc_matrix, b: np.ndarray, x: np.ndarray, y: np.ndarray, s: np.ndarray
) -> float:
    """Largest relative violation of primal and dual feasibility and of the duality gap at (x, y, s).

    Cone membership of s and y is the engine's own claim; the hull is checked afresh by the guard in SoftArgmax.
    Infinite where a number is not finite.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(s).all()):
        return np.inf
    Px, Aty = P @ x, A.T @ y
    primal = np.abs(A @ x + s - b).max(initial=0.0) / (1 + np.abs(b).max(initial=0.0))
    dual = np.abs(Px + c + Aty).max(initial=0.0) / (1 + np.abs(c).max(initial=0.0))
    value, bound = 0.5 * x @ Px + c @ x, -0.5 * x @ Px - b @ y
    gap = abs(value - bound) / (1 + max(abs(value), abs(bound)))
    return float(max(primal, dual, gap))


class ConicSolver(SolverInterface):
    """Base of the engines: subclasses give ``_solve`` and ``_differentiate``.

    Args:
        options: settings of the engine, over its defaults.
        tolerance: largest accepted ``optimality_residual``.
    """

    name = "?"
    tolerance = 1e-6
    program: ConeValues  # set when a layer is compiled

    def __init__(self, options: dict[str, Any] | None = None):
        self.options = dict(options or {})

    def setup(self, ctx: Any) -> None:
        self.program = ConeValues.from_layer(ctx)

    def solve_torch_batch(self, P, q, A, dims, solver_args, needs_grad):
        q_np, A_np = (np.ascontiguousarray(v.detach().cpu().numpy()) for v in (q, A))
        P_np = None if P is None else np.ascontiguousarray(P.detach().cpu().numpy())
        try:
            x, y, s, status, state = self._solve(P_np, q_np[:, :-1], *self.program.unpack(A_np), needs_grad)
        except (ValueError, RuntimeError) as error:  # an engine's own refusal, e.g. of NaN or of an unknown option
            raise SolveError(f"{self.name} failed: {error}") from error
        self._check(P_np, q_np[:, :-1], A_np, x, y, s, status)
        return q.new_tensor(x), q.new_tensor(y), state

    def derivative_torch_batch(self, dprimal, ddual, saved_state):
        dx, dy = dprimal.detach().cpu().numpy(), ddual.detach().cpu().numpy()
        dP, dc, dA, db = self._differentiate(dx, dy, saved_state)
        dq = np.hstack([dc, np.zeros((dc.shape[0], 1))])
        new = dprimal.new_tensor
        return (None if dP is None else new(dP)), new(dq), new(self.program.pack_gradient(dA, db))

    def _check(self, P, c, A_values, x, y, s, status) -> None:
        values, b = self.program.unpack(A_values)
        residuals = [
            optimality_residual(
                self.program.P(None if P is None else P[i]), c[i], self.program.A(values[i]), b[i], x[i], y[i], s[i]
            )
            for i in range(len(x))
        ]
        bad = [i for i, (r, word) in enumerate(zip(residuals, status, strict=True)) if not self._accept(r, word)]
        if bad:
            words = [f"{status[i]} (residual {residuals[i]:.1e})" for i in bad]
            raise SolveError(self._message([status[i].lower() for i in bad], words[0]), elements=bad, status=words)

    def _message(self, status: list[str], first: str) -> str:
        """What is wrong and what to do, of elements that were not solved."""
        if all("infeasible" in word and "dual" not in word for word in status):
            return (
                f"the hull is infeasible for {{elements}}: its constraints contradict each other at these parameters "
                f"({self.name}: {first}). Change the parameters, or ask with on_failure='closest' or 'nan'."
            )
        advice = "Scale the utilities, raise the temperature, or pass solver_options."
        if any("infeasible" in word or "unbounded" in word for word in status):
            advice = f"Check the hull and its parameters, and that it is bounded. {advice}"
        return f"{self.name} did not solve {{elements}}: {first}. {advice}"

    def _accept(self, residual: float, status: str) -> bool:
        return status != "failed" and residual <= self.tolerance

    def _solve(self, P, c, A, b, needs_grad):
        """Arrays (batch, nnz or size) in; x, y, s (batch, ...), status words and a state for ``_differentiate`` out."""
        raise NotImplementedError

    def _differentiate(self, dx, dy, state):
        """Vector-Jacobian product: dP (or None), dc, dA, db."""
        raise NotImplementedError
