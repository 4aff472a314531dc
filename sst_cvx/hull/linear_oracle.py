"""argmax of <u, x> over a hull given as plain CVXPY objects: HiGHS for linear hulls, Clarabel for other cones."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import highspy
import numpy as np

from sst_cvx.errors import SolveError
from sst_cvx.hull.compiled import CompiledHull
from sst_cvx.hull.linear import LinearHull

_ROUND = 1e-7  # HiGHS's primal tolerance: entries this near to an integer are that integer


class HardArgmax:
    """Solver of max { <u, x> : x in hull } for many u.

    Args:
        hull: the compiled constraints.
        integral: True solves the LP (the hull is conv(X)); False solves the MILP with an integer event variable.
    """

    def __init__(self, hull: CompiledHull, integral: bool):
        if not hull.linear and not integral:
            raise ValueError(
                "integral=False needs a linear hull: HiGHS has no mixed-integer cone programs. Declare conv(X), or "
                "replace the cones by linear constraints."
            )
        self._hull, self._integral = hull, integral
        self._model: highspy.Highs | None = None
        self._conic: tuple[cp.Problem, cp.Parameter] | None = None

    def __call__(self, u: np.ndarray, values: list[dict[str, np.ndarray]] | None = None) -> np.ndarray:
        """Maximisers ``(batch, size)`` for utilities ``(batch, size)``; ``values``: hull parameters per element.

        Raises:
            SolveError: the hull is empty or unbounded (in the direction of u), naming the elements.
        """
        x = np.empty(u.shape)
        problems: list[tuple[int, str]] = []
        for i, row in enumerate(u):
            scale = np.abs(row).max(initial=0.0)
            direction = row / scale if scale > 0 else row
            at = values[i] if values is not None else {}
            x[i], status = self._by_highs(direction, at, values is not None) if self._hull.linear else (
                self._by_clarabel(direction, at)
            )  # fmt: skip
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

    def _by_highs(self, direction: np.ndarray, at: dict[str, np.ndarray], fresh: bool) -> tuple[np.ndarray, str]:
        if self._model is None or fresh:
            linear = self._hull.at(at)
            self._event = linear.event.astype(np.int32)
            self._model = _highs_model(linear, integral=self._integral)
        model, event = self._model, self._event
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

    def _by_clarabel(self, direction: np.ndarray, at: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
        variable = self._hull.variable
        if self._conic is None:
            cost = cp.Parameter(variable.shape)
            objective = cp.Maximize(cp.sum(cp.multiply(cost, variable)))
            self._conic = (cp.Problem(objective, self._hull.constraints), cost)
        problem, cost = self._conic
        leaves: list[Any] = [*self._hull.parameters, *problem.variables()]
        saved = [leaf.value for leaf in leaves]
        try:
            cost.value = direction.reshape(variable.shape)
            for p in self._hull.parameters:
                p.value = at[p.name()]
            for tolerance in (1e-10, 1e-8):  # ties may keep it from the tighter one
                problem.solve(solver="CLARABEL", tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
                if problem.status != cp.OPTIMAL_INACCURATE:
                    break
            answer = None if variable.value is None else np.asarray(variable.value).ravel()
        finally:
            for leaf, value in zip(leaves, saved, strict=True):
                leaf.save_value(value)
        if problem.status != cp.OPTIMAL or answer is None:
            return np.full(variable.size, np.nan), str(problem.status)
        return answer, ""


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
