"""The closest feasible problem, where constraints contradict: right sides relaxed by the least amount.

Of declared constraints g(w) <= 0 and h(w) = 0, w the event and auxiliary variables, the least s in

    min 1/2 |s|^2   subject to   g(w) <= s,  h(w) = s

is unique; bounds of variables' attributes and of the regularizer's domain are kept. The soft argmax is then over
{ w : g(w) <= s, h(w) = s }. As s is the multiplier of its own constraint, all that s relaxes is tight in every point:
these rows are equalities, whose right sides are taken from one solution w, so that no rounding empties the set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import clarabel
import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints.nonpos import Inequality, NonNeg, NonPos
from cvxpy.constraints.zero import Equality, Zero

from sst_cvx.errors import SolveError
from sst_cvx.hull.canonical import canonicalise
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure

_TOLERANCES = (1e-12, 1e-10, 1e-8)  # Clarabel's, tried in turn
_POLISHED = 1500  # unknowns up to which the solution is polished by dense linear algebra
_WORSE = 1e-9  # violation that a polished solution may have, relative to 1 + the right sides


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
    """Of one structure with hull parameters and one regularizer.

    Raises:
        NotImplementedError: other constraints than linear ones, or parameters with attributes of symmetry and alike.
    """

    def __init__(self, structure: Structure, regularizer: Regularizer):
        if structure.hull.nonlinearity:
            raise NotImplementedError(
                f"on_failure='closest' relaxes linear constraints, but {structure.hull.nonlinearity}: use 'nan'."
            )
        if any(getattr(p, "_has_dim_reducing_attr", False) for p in structure.parameters):
            raise NotImplementedError(
                "on_failure='closest' takes no symmetric, diagonal or alike parameters: use 'nan'."
            )
        self._structure, self._domain = structure, regularizer.domain
        self._shifts = [cp.Parameter(c.shape, name=f"shift of {i}") for i, c in enumerate(structure.constraints)]
        constraints = [_shifted(c, s) for c, s in zip(structure.constraints, self._shifts, strict=True)]
        self._hull = canonicalise(structure.variable, constraints, [*structure.parameters, *self._shifts])
        indices, indptr, shape = self._hull.pattern
        split = indptr[-2]
        places = indices[split:], np.arange(len(indices) - split)
        spread = sp.csr_array((np.ones(len(places[1])), places), shape=(shape[0], len(places[1])))
        columns = [np.r_[self._hull.parameter_places[s.name()]] for s in self._shifts]
        self._slopes = sp.csr_array(spread @ self._hull.matrix[split:][:, np.concatenate(columns)])

    def __call__(self, values: dict[str, np.ndarray]) -> Relaxed:
        """At parameter values by name.

        Raises:
            SolveError: the least amounts were not found.
        """
        nothing = {s.name(): np.zeros(s.shape) for s in self._shifts}
        A, b = self._hull.rows(self._hull.theta(values | nothing))
        domain, ends = self._domain_rows()
        A, b = sp.csr_array(sp.vstack([A, domain])), np.concatenate([b, ends])
        S = sp.csr_array(sp.vstack([self._slopes, sp.csr_array((ends.size, self._slopes.shape[1]))]))  # type: ignore[index]
        w, s, tight = _least(A, b, S, self._hull.dims.zero)
        sizes = np.cumsum([p.size for p in self._shifts])[:-1]
        parts = [v.reshape(p.shape, order="F") for v, p in zip(np.split(s, sizes), self._shifts, strict=True)]
        return Relaxed(self._face(A, b + S @ s, w, tight), parts, float(np.linalg.norm(s)))

    def _domain_rows(self) -> tuple[Any, np.ndarray]:
        """The regularizer's domain as rows A w <= b."""
        identity: Any = sp.eye_array(self._hull.columns, format="csr")[self._hull.event]
        parts = [(sign * identity, sign * end) for sign, end in zip((-1, 1), self._domain, strict=True)]
        parts = [(rows, np.full(self._hull.event.size, end)) for rows, end in parts if math.isfinite(end)]
        if not parts:
            return sp.csr_array((0, self._hull.columns)), np.zeros(0)
        return sp.vstack([rows for rows, _ in parts]), np.concatenate([ends for _, ends in parts])

    def _face(self, A: Any, b: np.ndarray, w: np.ndarray, tight: np.ndarray) -> Structure:
        """{ w : A w = b where tight, A w <= b elsewhere } as a declaration; right sides such that w is in it."""
        variable, event = self._structure.variable, self._hull.event
        others = np.setdiff1d(np.arange(self._hull.columns), event)
        flat = cp.vec(variable, order="C")
        auxiliary = cp.Variable(others.size) if others.size else None

        def left(rows: np.ndarray) -> Any:
            own = A[rows][:, event] @ flat
            return own if auxiliary is None else own + A[rows][:, others] @ auxiliary

        now = A @ w
        equal, rest = np.flatnonzero(tight), np.flatnonzero(~tight)
        constraints = [left(equal) == now[equal]] if equal.size else []
        constraints += [left(rest) <= np.maximum(b, now)[rest]] if rest.size else []
        return Structure(variable, constraints)


def _shifted(c: Any, shift: cp.Parameter) -> Any:
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
    raise NotImplementedError(f"on_failure='closest' relaxes equalities and inequalities, not {c}: use 'nan'.")


def _least(A: Any, b: np.ndarray, S: Any, equalities: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w and s of min |s|^2 / 2, A w - S s <= b (= in the first rows), and which rows are tight in every solution."""
    (m, n), k = A.shape, S.shape[1]
    P = sp.csc_matrix(sp.diags_array(np.concatenate([np.zeros(n), np.ones(k)])))
    rows = sp.csc_matrix(sp.hstack([A, -S]))
    kinds: Any = clarabel
    cones = [kinds.ZeroConeT(equalities), kinds.NonnegativeConeT(m - equalities)]
    solution: Any = None
    for tolerance in _TOLERANCES:
        settings = kinds.DefaultSettings()
        settings.verbose, settings.max_threads = False, 1
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        solution = kinds.DefaultSolver(P, np.zeros(n + k), rows, b, cones, settings).solve()
        if str(solution.status) == "Solved":
            break
    else:
        raise SolveError(
            f"the closest feasible problem was not found for {{elements}}: Clarabel says {solution.status}."
        )
    x, z, slack = (np.asarray(part) for part in (solution.x, solution.z, solution.s))
    tight = (np.arange(m) < equalities) | (z > slack)
    polished = _polished(A, b, S, tight, x) if n + k + int(tight.sum()) <= _POLISHED else x
    excess = (rows @ polished - b) / (1 + np.abs(b))
    if np.max(np.where(tight, np.abs(excess), excess), initial=0.0) <= _WORSE:
        x = polished
    return x[:n], x[n:], tight


def _polished(A: Any, b: np.ndarray, S: Any, tight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The nearest (w, s) to x that solves min |s|^2 / 2, A w - S s = b in the tight rows, by its KKT system."""
    n, k = A.shape[1], S.shape[1]
    M = np.hstack([A[tight].toarray(), -S[tight].toarray()])
    P = np.diag(np.concatenate([np.zeros(n), np.ones(k)]))
    system = np.block([[P, M.T], [M, np.zeros((len(M), len(M)))]])
    right = np.concatenate([-P @ x, b[tight] - M @ x])
    return x + np.linalg.lstsq(system, right, rcond=1e-12)[0][: n + k]
