"""argmax of <u, x> over a hull: HiGHS for linear hulls, Clarabel for other cones. Any number of threads."""

from __future__ import annotations

import threading
from typing import Any

import clarabel
import highspy
import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.solvers.conic_solvers.clarabel_conif import dims_to_solver_cones

from sst_cvx.errors import SolveError
from sst_cvx.hull.canonical import Canonical
from sst_cvx.hull.linear import LinearHull

_ROUND = 1e-7  # HiGHS's primal tolerance: entries this near to an integer are that integer
_CONIC = (1e-10, 1e-8)  # Clarabel's tolerances, tried in turn: ties may keep it from the tighter one


class LinearOracle:
    """Solver of max { <u, x> : x in hull } for many u.

    Args:
        hull: the canonicalised constraints.
        integral: True maximises over the hull (it is conv(X)); False solves the MILP with an integer event variable.

    Raises:
        ValueError: integral=False and cones.
    """

    def __init__(self, hull: Canonical, integral: bool):
        if not hull.linear and not integral:
            raise ValueError(
                "integral=False needs a linear hull: HiGHS has no mixed-integer cone programs. Declare conv(X), or "
                "replace the cones by linear constraints."
            )
        self._hull, self._integral = hull, integral
        self._own = threading.local()  # a HiGHS model is warm-started, and crashes when two threads run it

    def __call__(self, u: np.ndarray, values: list[dict[str, np.ndarray]] | None = None) -> np.ndarray:
        """Maximisers ``(batch, size)`` for utilities ``(batch, size)``; ``values``: hull parameters per element.

        Raises:
            SolveError: the hull is empty or unbounded (in the direction of u), naming the elements.
        """
        solve = self._by_highs if self._hull.linear else self._by_clarabel
        x = np.empty(u.shape)
        problems: list[tuple[int, str]] = []
        for i, row in enumerate(u):
            scale = np.abs(row).max(initial=0.0)
            x[i], status = solve(row / scale if scale > 0 else row, None if values is None else values[i])
            if status:
                problems.append((i, status))
        if problems:
            raise SolveError(
                f"argmax over the hull failed for {{elements}}: {problems[0][1]}. Infeasible: the "
                "constraints contradict each other (check the hull's parameters). Unbounded: add bounds.",
                [i for i, _ in problems],
                [status for _, status in problems],
            )
        nearest = np.round(x) + 0.0  # no negative zeros
        return np.where(np.abs(x - nearest) <= _ROUND, nearest, x)

    def _by_highs(self, direction: np.ndarray, at: dict[str, np.ndarray] | None) -> tuple[np.ndarray, str]:
        model, event = self._model(at), self._hull.event.astype(np.int32)
        model.changeColsCost(event.size, event, direction.ravel())
        model.run()
        status = model.getModelStatus()
        if status == highspy.HighsModelStatus.kUnboundedOrInfeasible:  # presolve could not tell: ask without it
            model.setOptionValue("presolve", "off")
            model.run()
            model.setOptionValue("presolve", "choose")
            status = model.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:
            return np.full(event.size, np.nan), model.modelStatusToString(status).lower()
        return np.asarray(model.getSolution().col_value)[event], ""

    def _model(self, at: dict[str, np.ndarray] | None) -> highspy.Highs:
        """This thread's model; one of its own at parameter values."""
        if at is None and hasattr(self._own, "model"):
            return self._own.model
        A, b = self._hull.rows(self._hull.theta(at or {}))
        linear = LinearHull.from_rows(A, b, self._hull.dims.zero, self._hull.event)
        model = _highs_model(linear, integral=self._integral)
        if at is None:
            self._own.model = model
        return model

    def _by_clarabel(self, direction: np.ndarray, at: dict[str, np.ndarray] | None) -> tuple[np.ndarray, str]:
        A, b = self._hull.rows(self._hull.theta(at or {}))
        cost = np.zeros(self._hull.columns)
        cost[self._hull.event] = -direction.ravel()
        nothing = sp.csc_matrix((cost.size, cost.size))
        status = ""
        for tolerance in _CONIC:
            settings: Any = clarabel.DefaultSettings()  # pyright: ignore[reportAttributeAccessIssue]
            settings.verbose, settings.max_threads = False, 1
            settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
            solver: Any = clarabel.DefaultSolver  # pyright: ignore[reportAttributeAccessIssue]
            cones = dims_to_solver_cones(self._hull.dims)
            solution = solver(nothing, cost, sp.csc_matrix(A), b, cones, settings).solve()
            status = str(solution.status)
            if status != "AlmostSolved":
                break
        if status != "Solved":
            return np.full(direction.size, np.nan), _STATUSES.get(status, status.lower())
        return np.asarray(solution.x)[self._hull.event], ""


_STATUSES = {
    "PrimalInfeasible": "infeasible",
    "AlmostPrimalInfeasible": "infeasible",
    "DualInfeasible": "unbounded",
    "AlmostDualInfeasible": "unbounded",
    "AlmostSolved": "solved inaccurately",
}


def _highs_model(hull: LinearHull, integral: bool) -> highspy.Highs:
    columns, rows = hull.lower.size, hull.row_upper.size
    model = highspy.Highs()
    model.silent()
    options = {"threads": 1, "dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-9}
    for name, value in (options | {"mip_rel_gap": 0.0, "mip_abs_gap": 1e-9}).items():
        model.setOptionValue(name, value)
    lp: Any = highspy.HighsLp()
    lp.num_col_, lp.num_row_, lp.sense_ = columns, rows, highspy.ObjSense.kMaximize
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = np.zeros(columns), hull.lower, hull.upper
    lp.row_lower_, lp.row_upper_ = hull.row_lower, hull.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    matrix: Any = hull.rows
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    if not integral:
        kinds = np.full(columns, highspy.HighsVarType.kContinuous, dtype=object)
        kinds[hull.event] = highspy.HighsVarType.kInteger
        lp.integrality_ = list(kinds)
    model.passModel(lp)
    return model
