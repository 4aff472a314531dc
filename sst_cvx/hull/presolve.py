"""Implicit equalities of a linear hull: inequalities that hold with equality at every point.

A hull with implicit equalities (x <= 0 beside x >= 0, sum x <= 1 beside sum x >= 1) has no strictly feasible point.
Interior-point methods and conic derivatives then lose their footing: gradients of entropies were off by 1e-2. Saying
these rows as equalities, and fixing coordinates that have one possible value, restores both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx.hull.linear import LinearHull
from sst_cvx.hull.units import Units
from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.optimize as optimize
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")
    optimize = later("scipy.optimize")

_SLACK = 1e-6  # a row whose largest slack in the scaled program is below this never has any


@dataclass
class Presolved:
    """The same set with every implicit equality stated: as equal row bounds, or as equal bounds of a column.

    ``inside`` is a point of the relative interior (None where the linear program could not tell); ``degenerate`` says
    whether any inequality was an equality in disguise, or a column fixed.
    """

    hull: LinearHull
    inside: np.ndarray | None
    degenerate: bool


def presolve(hull: LinearHull, domain: tuple[float, float]) -> Presolved:
    """Find implicit equalities of a hull whose event coordinates also lie in ``domain``, by one linear program (HiGHS).

    Maximise sum e subject to A y = b t, G y + e <= h t, 0 <= e <= 1, t >= 1: at an optimum, y / t is in the relative
    interior, and e_i = 0 exactly for rows without slack anywhere.
    """
    lower, upper = hull.lower.copy(), hull.upper.copy()
    lower[hull.event] = np.maximum(lower[hull.event], domain[0])
    upper[hull.event] = np.minimum(upper[hull.event], domain[1])
    hull = replace(hull, lower=lower, upper=upper)
    units = Units.of(hull)
    if units is not None:
        found = _presolve(units.hull(hull))
        same, back = found.hull, units.columns
        return Presolved(
            replace(
                hull,
                lower=np.where(same.lower == same.upper, same.lower * back, hull.lower),
                upper=np.where(same.lower == same.upper, same.upper * back, hull.upper),
                row_lower=np.where(same.row_lower == same.row_upper, hull.row_upper, hull.row_lower),
            ),
            None if found.inside is None else found.inside * back,
            found.degenerate,
        )
    return _presolve(hull)


def _presolve(hull: LinearHull) -> Presolved:
    """The same of a hull in units of its own."""
    identity: Any = sp.eye_array(hull.lower.size, format="csr")
    equal = hull.row_lower == hull.row_upper
    fixed = hull.lower == hull.upper
    A: Any = sp.vstack([hull.rows[equal], identity[fixed]], format="csr")
    b = np.concatenate([hull.row_upper[equal], hull.upper[fixed]])
    below = np.flatnonzero(np.isfinite(hull.lower) & ~fixed)
    above = np.flatnonzero(np.isfinite(hull.upper) & ~fixed)
    rows = np.flatnonzero(~equal & np.isfinite(hull.row_upper))
    G: Any = sp.vstack([-identity[below], identity[above], hull.rows[rows]], format="csr")
    h = np.concatenate([-hull.lower[below], hull.upper[above], hull.row_upper[rows]])

    slack, inside = _largest_slack(A, b, G, h)
    tight_below, tight_above, tight_rows = np.split(slack <= _SLACK, [below.size, below.size + above.size])
    lower, upper, row_lower = hull.lower.copy(), hull.upper.copy(), hull.row_lower.copy()
    upper[below[tight_below]] = lower[below[tight_below]]
    lower[above[tight_above]] = hull.upper[above[tight_above]]
    row_lower[rows[tight_rows]] = hull.row_upper[rows[tight_rows]]
    tightened = replace(hull, lower=lower, upper=upper, row_lower=row_lower)
    return Presolved(tightened, inside, degenerate=bool((slack <= _SLACK).any() or fixed.any()))


def _largest_slack(A: Any, b: np.ndarray, G: Any, h: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The e and the y / t of the linear program; all ones and None where HiGHS fails, which changes nothing."""
    rows, columns = G.shape
    scale = abs(G).max(axis=1).toarray().ravel() if rows else np.ones(0)
    scale[scale == 0] = 1.0
    h, G = h / scale, sp.diags_array(1 / scale) @ G if rows else G
    upper = sp.hstack([G, sp.eye_array(rows), sp.csr_array(-h[:, None])], format="csr")
    equal = sp.hstack([A, sp.csr_array((len(b), rows)), sp.csr_array(-b[:, None])], format="csr")
    cost = np.concatenate([np.zeros(columns), -np.ones(rows), [0.0]])
    limits = [(None, None)] * columns + [(0, 1)] * rows + [(1, None)]
    result = optimize.linprog(
        cost,
        upper if rows else None,
        np.zeros(rows) if rows else None,
        equal if len(b) else None,
        np.zeros(len(b)) if len(b) else None,
        limits,
        "highs",
    )
    if result.x is None:
        return np.ones(rows), None
    return result.x[columns : columns + rows], result.x[:columns] / result.x[-1]
