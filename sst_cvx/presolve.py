"""Implicit equalities of a linear hull: inequalities that hold with equality at every point.

A hull with implicit equalities (x <= 0 beside x >= 0, sum x <= 1 beside sum x >= 1) has no strictly feasible point.
Interior-point methods and conic derivatives then lose their footing: gradients of entropies were off by 1e-2. Saying
these rows as equalities, and leaving fixed coordinates out of f, restores both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from sst_cvx.hull import LinearHull

_SLACK = 1e-6  # a row whose largest slack in the scaled program is below this never has any


@dataclass
class PresolvedHull:
    """{ w : equalities @ w = right, inequalities @ w <= bound }; ``fixed`` marks columns with one possible value.

    ``degenerate`` says whether any inequality of the original was an equality in disguise, or a column fixed.
    """

    equalities: sp.csr_array
    right: np.ndarray
    inequalities: sp.csr_array
    bound: np.ndarray
    fixed: np.ndarray
    degenerate: bool


def presolve(hull: LinearHull) -> PresolvedHull:
    """Find implicit equalities by one linear program (HiGHS).

    Maximise sum e subject to A y = b t, G y + e <= h t, 0 <= e <= 1, t >= 1: at an optimum, y / t is in the relative
    interior, and e_i = 0 exactly for rows without slack anywhere.
    """
    columns = hull.lower.size
    identity: Any = sp.eye_array(columns, format="csr")
    equal = hull.row_lower == hull.row_upper
    fixed = hull.lower == hull.upper
    A: Any = sp.vstack([hull.rows[equal], identity[fixed]], format="csr")
    b = np.concatenate([hull.row_upper[equal], hull.upper[fixed]])
    below, above = np.isfinite(hull.lower) & ~fixed, np.isfinite(hull.upper) & ~fixed
    rows = ~equal & np.isfinite(hull.row_upper)
    G: Any = sp.vstack([-identity[below], identity[above], hull.rows[rows]], format="csr")
    h = np.concatenate([-hull.lower[below], hull.upper[above], hull.row_upper[rows]])

    tight = ~_has_slack(A, b, G, h)
    bounds = int(below.sum()), int(above.sum())
    owner = np.concatenate([np.flatnonzero(below), np.flatnonzero(above), np.full(len(h) - sum(bounds), -1)])
    now_fixed = fixed.copy()
    now_fixed[owner[tight & (owner >= 0)]] = True
    return PresolvedHull(
        sp.csr_array(sp.vstack([A, G[tight]])),
        np.concatenate([b, h[tight]]),
        sp.csr_array(G[~tight]),
        h[~tight],
        now_fixed,
        degenerate=bool(tight.any() or fixed.any()),
    )


def _has_slack(A: Any, b: np.ndarray, G: Any, h: np.ndarray) -> np.ndarray:
    rows, columns = len(h), G.shape[1]
    if not rows:
        return np.zeros(0, bool)
    upper = sp.hstack([G, sp.eye_array(rows), sp.csr_array(-h[:, None])], format="csr")
    equal = sp.hstack([A, sp.csr_array((len(b), rows)), sp.csr_array(-b[:, None])], format="csr")
    cost = np.concatenate([np.zeros(columns), -np.ones(rows), [0.0]])
    limits = [(None, None)] * columns + [(0, 1)] * rows + [(1, None)]
    result = linprog(
        cost, upper, np.zeros(rows), equal if len(b) else None, np.zeros(len(b)) if len(b) else None, limits, "highs"
    )
    if result.x is None:  # undecided: change nothing
        return np.ones(rows, bool)
    return result.x[columns : columns + rows] > _SLACK
