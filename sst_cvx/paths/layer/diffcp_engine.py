"""The default engine of the layer: Clarabel (or SCS) through diffcp, then our refinement and derivative.

An interior-point method alone leaves the soft argmax wrong by the square root of its gap (1e-6 to 1e-5). Newton steps
on the homogeneous embedding take it to rounding for quadratic f and to about 1e-8 for entropies at t = 1.
"""

from __future__ import annotations

import functools
from typing import Any

import cvxpy as cp
import diffcp
import numpy as np
import scipy.sparse as sp
import torch
from threadpoolctl import ThreadpoolController

from sst_cvx.hull.linear import independent_rows
from sst_cvx.paths.iterations import count
from sst_cvx.paths.layer.engine import ConicSolver
from sst_cvx.paths.layer.homogeneous_embedding import ConeProgram, Embedding

_RANK_LIMIT = 2_000_000  # entries of the equality block up to which dependent rows are looked for
_TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, "tol_ktratio": 1e-10}
_LOOSER = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
_OTHERWISE: tuple[dict[str, float], ...] = ({"static_regularization_constant": 1e-10}, _LOOSER)  # tried where it stops


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _one_thread() -> Any:
    """Factorisations here are small: a second BLAS thread costs, up to a hundredfold on a busy machine."""
    return _blas().limit(limits=1)


class DiffcpSolver(ConicSolver):
    """diffcp, one batch element at a time.

    Options: ``solve_method`` ("Clarabel" or "SCS"), ``refine`` (largest number of Newton steps, default 3; 0 for none),
    and any setting of the engine (``tol_gap_abs``, ... for Clarabel, ``eps``, ... for SCS).
    """

    name = "diffcp"
    canon_solver = cp.DIFFCP

    def __init__(self, options: dict[str, Any] | None = None):
        super().__init__(options)
        self._independent_rows: tuple[np.ndarray, np.ndarray] | None = None  # of the equalities seen last

    def _solve(self, P, c, A, b, needs_grad):
        with _one_thread():
            return self._solve_each(c, A, b)

    def _solve_each(self, c: np.ndarray, A: np.ndarray, b: np.ndarray) -> tuple:
        points, solutions, words, steps = [], [], [], []
        for i in range(len(c)):
            program = self._independent(self.program.A(A[i]), b[i], c[i])
            result = self._run(program)
            point = Embedding(program, result)
            converged = point.refine(self.options.get("refine", 3))
            if not converged and "solve_method" not in self.options:
                point = self._try_again(point) if program.cones.get("ep") else self._continue_with_scs(point)
            points.append(point)
            solutions.append(program.expand(point.x, point.y, point.s))
            words.append(str(result["info"]["status"]))
            steps.append(int(result["info"].get("iter", -1)))
        count(torch.tensor(steps, device="cpu"))
        x, y, s = (np.stack(parts) for parts in zip(*solutions, strict=True))
        return x, y, s, words, points

    def _run(self, program: ConeProgram) -> dict[str, Any]:
        method = self.options.get("solve_method", "Clarabel")
        defaults = _TIGHT if method.upper() == "CLARABEL" else {"eps": 1e-10, "max_iters": 100_000}
        return program.solve(solve_method=method, **(defaults | self._settings()))

    def _try_again(self, point: Embedding) -> Embedding:
        """Exponential cones of tiny entries stop Clarabel early, with other settings elsewhere: the best of them."""
        for settings in _OTHERWISE:
            try:
                result = point.program.solve(solve_method="Clarabel", **(_TIGHT | settings | self._settings()))
            except diffcp.SolverError:
                continue
            other = Embedding(point.program, result)
            if other.refine(self.options.get("refine", 3)):
                return other
            point = other if other.error() < point.error() else point
        return point

    def _settings(self) -> dict[str, Any]:
        """The caller's, of the engine."""
        return {key: value for key, value in self.options.items() if key not in ("refine", "solve_method")}

    def _continue_with_scs(self, point: Embedding) -> Embedding:
        """Second-order cones at their tip (Tsallis at x = 0) stop Newton's steps, but not a first-order method."""
        start = (point.x, point.y, point.s)
        try:
            result = point.program.solve(solve_method="SCS", eps=1e-11, max_iters=10_000, warm_start=start)
        except diffcp.SolverError:
            return point
        continued = Embedding(point.program, result)
        continued.refine(self.options.get("refine", 3))
        return continued if continued.error() < point.error() else point

    def _independent(self, A: sp.csc_matrix, b: np.ndarray, c: np.ndarray) -> ConeProgram:
        """The program without equalities that depend on others: they make the embedding singular (Birkhoff)."""
        equalities = self.program.cones.get("z", 0)
        keep = np.ones(b.size, bool)
        if equalities > 1 and equalities * c.size <= _RANK_LIMIT:
            block, known = A[:equalities].toarray(), self._independent_rows
            if known is None or not np.array_equal(known[0], block):
                known = self._independent_rows = block, independent_rows(block)
            keep[:equalities] = False
            keep[known[1]] = True
        return ConeProgram(A, b, c, self.program.cones, keep)

    def _differentiate(self, dx, dy, state):
        if np.any(dy):
            raise NotImplementedError("derivatives of multipliers are not offered: soft argmaxes ask for x only.")
        with _one_thread():
            parts = [point.adjoint(dx[i]) for i, point in enumerate(state)]
        dA, db, dc = (np.stack(part) for part in zip(*parts, strict=True))
        return None, dc, dA, db

    def _accept(self, residual: float, status: str) -> bool:
        return residual <= self.tolerance and "feasible" not in status and "Unbounded" not in status
