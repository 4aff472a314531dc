"""The closest feasible problem, where constraints contradict: right sides relaxed by the least amount.

Of declared constraints g(w) <= 0 and h(w) = 0, w the event and auxiliary variables, the least s in

    min 1/2 |s|^2   subject to   g(w) <= s,  h(w) = s

is unique; bounds of variables' attributes and of the regularizer's domain are kept. The soft argmax is then over
{ w : g(w) <= s, h(w) = s }. As s is the multiplier of its own constraint, all that s relaxes is tight in every point:
these rows are stated as equalities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx.errors import SolveError
from sst_cvx.hull.linear import independent_rows
from sst_cvx.once import later
from sst_cvx.paths.failure.shifted import ShiftedHull
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import clarabel
    import cvxpy as cp
    import scipy.optimize as optimize
    import scipy.sparse as sp
else:
    clarabel = later("clarabel")
    cp = later("cvxpy")
    sp = later("scipy.sparse")
    optimize = later("scipy.optimize")

_TOLERANCES = (1e-12, 1e-10, 1e-8)  # Clarabel's, tried in turn
_NOT_ZERO = (1e-5, 1e-6, 1e-7, 1e-8)  # multipliers of tight rows are more than this: tried in turn
_NO_SHIFT = 1e-13  # amounts that are rounding
_EXCESS = 1e-9  # violation that is rounding; all relative to 1 + the right sides
_HIGHS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass
class Relaxed:
    """One relaxed problem.

    Attributes:
        structure: without parameters, in the same event variable.
        amounts: s of every declared constraint, of its shape.
        least: |s|.
    """

    structure: Structure
    amounts: list[np.ndarray]
    least: float


class Closest:
    """Of one structure with hull parameters and one regularizer."""

    def __init__(self, structure: Structure, regularizer: Regularizer, hull: ShiftedHull):
        self._structure, self._domain, self._hull = structure, regularizer.domain, hull

    def __call__(self, values: dict[str, np.ndarray]) -> Relaxed:
        """At parameter values by name.

        Raises:
            SolveError: the least amounts were not found.
        """
        A, b = self._hull.rows(values)
        domain, ends = self._domain_rows()
        A, b = sp.csr_array(sp.vstack([A, domain])), np.concatenate([b, ends])
        A.eliminate_zeros()
        S = self._hull.slopes
        S = sp.csr_array(sp.vstack([S, sp.csr_array((ends.size, S.shape[1]))]))
        s, w, tight = _least(A, b, S, self._hull.equalities)
        return Relaxed(self._face(A, b + S @ s, w, tight), self._hull.by_constraint(s), float(np.linalg.norm(s)))

    def _domain_rows(self) -> tuple[Any, np.ndarray]:
        """The regularizer's domain as rows A w <= b."""
        identity: Any = sp.eye_array(self._hull.columns, format="csr")
        parts = [
            (sign * identity[self._hull.event], sign * end) for sign, end in zip((-1, 1), self._domain, strict=True)
        ]
        parts = [(rows, np.full(self._hull.event.size, end)) for rows, end in parts if math.isfinite(end)]
        if not parts:
            return sp.csr_array((0, self._hull.columns)), np.zeros(0)
        return sp.vstack([rows for rows, _ in parts]), np.concatenate([ends for _, ends in parts])

    def _face(self, A: Any, b: np.ndarray, w: np.ndarray, tight: np.ndarray) -> Structure:
        """{ w : A w = b where tight, A w <= b elsewhere } as a declaration; w is in it, whatever was rounded."""
        variable, event = self._structure.variable, self._hull.event
        others = np.setdiff1d(np.arange(self._hull.columns), event)
        flat = cp.vec(variable, order="C")
        auxiliary = cp.Variable(others.size) if others.size else None

        def left(rows: np.ndarray) -> Any:
            own = A[rows][:, event] @ flat
            return own if auxiliary is None else own + A[rows][:, others] @ auxiliary

        now, equal = A @ w, np.flatnonzero(tight)
        equal = equal[independent_rows(A[equal])]
        alone = equal[np.diff(A.indptr)[equal] == 1]
        free = np.isin(np.arange(A.shape[1]), A.indices[A.indptr[alone]], invert=True).astype(float)
        rest = np.flatnonzero(~tight & (abs(A) @ free > 0))  # rows over fixed columns hold, but for rounding
        room = np.maximum(b, now)
        constraints = [left(equal) == now[equal]] if equal.size else []
        constraints += [left(rest) <= room[rest]] if rest.size else []
        return Structure(variable, constraints)


def _least(A: Any, b: np.ndarray, S: Any, equalities: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s and w of min |s|^2 / 2, A w - S s <= b (= in the first rows), and which rows are tight in every solution.

    By an interior point (Clarabel), and to rounding by the KKT system of the rows whose multipliers are not 0: which
    these are, there must be a w to show.
    """
    (m, n), k = A.shape, S.shape[1]
    P, rows = np.concatenate([np.zeros(n), np.ones(k)]), sp.csc_matrix(sp.hstack([A, -S]))
    kinds: Any = clarabel
    cones = [kinds.ZeroConeT(equalities), kinds.NonnegativeConeT(m - equalities)]
    size, status = 1 + np.abs(b).max(initial=0.0), ""
    for tolerance in _TOLERANCES:
        settings = kinds.DefaultSettings()
        settings.verbose, settings.max_threads = False, 1
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        found = kinds.DefaultSolver(sp.diags(P, format="csc"), np.zeros(n + k), rows, b, cones, settings).solve()
        status = str(found.status)
        for least in _NOT_ZERO if status == "Solved" else ():
            tight = (np.arange(m) < equalities) | (np.asarray(found.z) > least * size)
            s = _by_kkt(A, b, S, tight, np.asarray(found.x))[n:]
            s[np.abs(s) <= _NO_SHIFT * size] = 0.0
            excess, w = _excess(A, b + S @ s, tight)
            if excess <= _EXCESS * size:
                return s, w, tight
    raise SolveError(f"the closest feasible problem was not found for {{elements}} (Clarabel: {status}).")


def _by_kkt(A: Any, b: np.ndarray, S: Any, tight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The nearest (w, s) to x that solves min |s|^2 / 2, A w - S s = b in the tight rows."""
    n, k = A.shape[1], S.shape[1]
    M = np.hstack([A[tight].toarray(), -S[tight].toarray()])
    P = np.diag(np.concatenate([np.zeros(n), np.ones(k)]))
    system = np.block([[P, M.T], [M, np.zeros((len(M), len(M)))]])
    right = np.concatenate([-P @ x, b[tight] - M @ x])
    return x + np.linalg.lstsq(system, right, rcond=1e-12)[0][: n + k]


def _excess(A: Any, b: np.ndarray, tight: np.ndarray) -> tuple[float, np.ndarray]:
    """The least by which any w violates A w <= b, = in tight rows, and this w; infinite if HiGHS does not say."""
    one = sp.csr_array(np.ones((b.size, 1)))
    up, down = sp.hstack([A, -one]), sp.hstack([-A[tight], -one[tight]])
    cost = np.append(np.zeros(A.shape[1]), 1.0)
    limits = [(None, None)] * A.shape[1] + [(0, None)]
    both = sp.csr_array(sp.vstack([up, down])), np.concatenate([b, -b[tight]])
    found: Any = optimize.linprog(cost, *both, bounds=limits, method="highs", options=_HIGHS)
    return (np.inf, cost[:-1]) if found.x is None else (float(found.x[-1]), found.x[:-1])
