"""argmax of <u, x> over a hull: HiGHS for linear hulls, Clarabel for other cones. Any number of threads."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx.errors import SolveError
from sst_cvx.hull.canonical import Canonical
from sst_cvx.hull.linear import LinearHull
from sst_cvx.hull.units import Units
from sst_cvx.once import later

if TYPE_CHECKING:
    import clarabel
    import highspy
    import scipy.sparse as sp
else:
    clarabel = later("clarabel")
    highspy = later("highspy")
    sp = later("scipy.sparse")

_ROUND = 1e-7  # HiGHS's primal tolerance: entries this near to an integer are that integer
_OUTSIDE = 1e-6  # violation, in units of rows and columns, from which a point is not returned
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
        return x

    def is_surely_empty(self, seconds: float) -> bool:
        """Whether there is no point at all, of a linear hull without parameters; False if that takes longer to tell."""
        linear = self._hull.rows(self._hull.theta({}))
        program = _Program.of(LinearHull.from_rows(*linear, self._hull.dims.zero, self._hull.event), self._integral)
        program.model.setOptionValue("time_limit", seconds)
        program.model.run()
        return program.model.getModelStatus() == highspy.HighsModelStatus.kInfeasible

    def _by_highs(self, direction: np.ndarray, at: dict[str, np.ndarray] | None) -> tuple[np.ndarray, str]:
        program, event = self._program(at), self._hull.event.astype(np.int32)
        model, units = program.model, program.units
        if units is not None:
            direction = direction.ravel() * units.columns[event]
            direction = direction / (np.abs(direction).max(initial=0.0) or 1.0)
        model.changeColsCost(event.size, event, direction.ravel())
        status = _solved(model)
        if status != highspy.HighsModelStatus.kOptimal:
            return np.full(event.size, np.nan), model.modelStatusToString(status).lower()
        w = np.asarray(model.getSolution().col_value)
        x = w[event] if units is None else w[event] * units.columns[event]
        return _rounded(x, 1.0 if units is None else units.columns[event]), program.complaint(w)

    def _program(self, at: dict[str, np.ndarray] | None) -> _Program:
        """This thread's program; one of its own at parameter values."""
        if at is None and hasattr(self._own, "program"):
            return self._own.program
        A, b = self._hull.rows(self._hull.theta(at or {}))
        linear = LinearHull.from_rows(A, b, self._hull.dims.zero, self._hull.event)
        program = _Program.of(linear, self._integral)
        if at is None:
            self._own.program = program
        return program

    def _by_clarabel(self, direction: np.ndarray, at: dict[str, np.ndarray] | None) -> tuple[np.ndarray, str]:
        from cvxpy.reductions.solvers.conic_solvers.clarabel_conif import dims_to_solver_cones

        A, b = self._hull.rows(self._hull.theta(at or {}))
        cost = np.zeros(self._hull.columns)
        cost[self._hull.event] = -direction.ravel()
        units = Units.of_cone(A, b, _blocks(self._hull.dims, b.size))
        if units is not None:
            A, b, cost = units.matrix(A), units.rows * b, units.columns * cost
            cost = cost / (np.abs(cost).max(initial=0.0) or 1.0)
        nothing = sp.csc_matrix((cost.size, cost.size))
        status, solution = "", None
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
        w = np.asarray(solution.x)  # type: ignore[union-attr]
        own = np.ones(w.size) if units is None else units.columns
        x, own = (w * own)[self._hull.event], own[self._hull.event]
        worst = _outside_cone(A, b, w, self._hull.dims)
        return _rounded(x, own), "" if worst <= _OUTSIDE else f"a point outside the hull, by {worst:.1e}"


@dataclass
class _Program:
    """A linear or mixed-integer program over a hull in its own units."""

    hull: LinearHull
    units: Units | None
    model: highspy.Highs

    @classmethod
    def of(cls, hull: LinearHull, integral: bool) -> _Program:
        units = Units.of(hull, None if integral else hull.event)
        hull = hull if units is None else units.hull(hull)
        return cls(hull, units, _highs_model(hull, integral))

    def complaint(self, w: np.ndarray) -> str:
        """What is wrong with a solution, if anything: HiGHS drops small coefficients, and stops at tolerances."""
        rows = self.hull.rows @ w
        worst = max(
            _excess(w, self.hull.lower, self.hull.upper), _excess(rows, self.hull.row_lower, self.hull.row_upper)
        )
        return "" if worst <= _OUTSIDE else f"a point outside the hull, by {worst:.1e}: scale the constraints"


def _excess(w: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """How far values are outside of bounds, relative to 1 + |bound|; infinite for what is not a number."""
    ends = [(end, sign) for end, sign in ((lower, -1.0), (upper, 1.0))]
    parts = [sign * (w - end) / (1 + np.where(np.isfinite(end), np.abs(end), 0.0)) for end, sign in ends]
    worst = float(np.max(parts, initial=-np.inf))
    return np.inf if np.isnan(worst) else worst


def _blocks(dims: Any, rows: int) -> np.ndarray:
    """Of each row, the number of its block: itself in linear cones, else all rows of one cone."""
    linear = dims.zero + dims.nonneg
    sizes = [*dims.soc, *(n * (n + 1) // 2 for n in dims.psd), *[3] * (dims.exp + len(dims.p3d))]
    blocks = np.concatenate([np.arange(linear), linear + np.repeat(np.arange(len(sizes)), sizes)])
    rest = rows - blocks.size  # generalised power cones: one block
    return np.concatenate([blocks, np.full(rest, linear + len(sizes))]).astype(int)


def _outside_cone(A: Any, b: np.ndarray, w: np.ndarray, dims: Any) -> float:
    """Largest violation of linear and second-order cones, relative to 1 + |b|; the others are Clarabel's to tell."""
    s = (b - A @ w) / (1 + np.abs(b).max(initial=0.0))
    place = dims.zero + dims.nonneg
    worst = max(np.abs(s[: dims.zero]).max(initial=0.0), (-s[dims.zero : place]).max(initial=0.0))
    for size in dims.soc:
        worst = max(worst, np.linalg.norm(s[place + 1 : place + size]) - s[place])
        place += size
    return float(worst) if np.isfinite(worst) else np.inf


def _rounded(x: np.ndarray, unit: Any) -> np.ndarray:
    """Points with entries that are integers up to a solver's tolerance, in their column's unit, made so."""
    nearest = np.round(x) + 0.0  # no negative zeros
    return np.where(np.abs(x - nearest) <= _ROUND * np.minimum(unit, 1.0), nearest, x)


_STATUSES = {
    "PrimalInfeasible": "infeasible",
    "AlmostPrimalInfeasible": "infeasible",
    "DualInfeasible": "unbounded",
    "AlmostDualInfeasible": "unbounded",
    "AlmostSolved": "solved inaccurately",
}


def _solved(model: highspy.Highs) -> highspy.HighsModelStatus:
    """The status of a solve, asked again in other ways where HiGHS could not tell: near ties keep a warm start from
    its tighter tolerance."""
    kinds = highspy.HighsModelStatus
    model.run()
    if model.getModelStatus() == kinds.kUnboundedOrInfeasible:  # presolve could not tell: ask without it
        _run(model, "presolve", "off", "choose")
    if model.getModelStatus() in (kinds.kUnknown, kinds.kSolveError):
        model.clearSolver()
        model.run()
    if model.getModelStatus() in (kinds.kUnknown, kinds.kSolveError):
        model.clearSolver()
        _run(model, "dual_feasibility_tolerance", 1e-8, 1e-10)
    return model.getModelStatus()


def _run(model: highspy.Highs, option: str, once: Any, usual: Any) -> None:
    """A run with an option as it is not usual."""
    model.setOptionValue(option, once)
    model.run()
    model.setOptionValue(option, usual)


@functools.cache
def _silent_highs() -> type[highspy.Highs]:
    """From 1.16 on its constructor prints a banner, unless it is silent before it makes its callbacks."""

    class Silent(highspy.Highs):
        def enableCallbacks(self) -> Any:
            self.silent()
            return super().enableCallbacks()

    return Silent


def _highs_model(hull: LinearHull, integral: bool) -> highspy.Highs:
    columns, rows = hull.lower.size, hull.row_upper.size
    model = _silent_highs()()
    options = {
        "threads": 1,
        "small_matrix_value": 1e-12,
        "dual_feasibility_tolerance": 1e-10,
        "primal_feasibility_tolerance": 1e-9,
    }
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
