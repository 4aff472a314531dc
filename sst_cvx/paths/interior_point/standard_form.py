"""A linear hull as the interior-point path wants it: { w : M w = r, lower <= w <= upper }, presolved.

Columns are the event's free coordinates, the auxiliary variables, and one slack per inequality row, in this order.
Inequality rows come after the equalities, so M = [[A, 0], [G, I]].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from sst_cvx.hull.linear import LinearHull, independent_rows
from sst_cvx.hull.presolve import presolve


@dataclass
class StandardForm:
    """The core [A; G], right sides and bounds; arrays in float64.

    Attributes:
        core: rows without the slack columns, ``(equalities + inequalities, curved + auxiliary)``.
        right: r, lower and upper: bounds of all columns, slacks included.
        equalities: number of rows of A.
        curved: number of event coordinates that are columns (those that are not fixed).
        free: their places in the flat event, ``(curved,)``.
        constant: the flat event, with the values of its fixed coordinates and 0 elsewhere.
        start: columns of a point in the relative interior; None where bounds depend on parameters.
    """

    core: sp.csr_array
    right: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    equalities: int
    curved: int
    free: np.ndarray
    constant: np.ndarray
    start: np.ndarray | None

    @property
    def slacks(self) -> int:
        """Number of inequality rows."""
        return self.right.size - self.equalities

    @property
    def matrix(self) -> sp.csr_array:
        """M, slack columns included."""
        slack = sp.vstack([sp.csr_array((self.equalities, self.slacks)), sp.eye_array(self.slacks)])
        return sp.csr_array(sp.hstack([self.core, slack]))

    @property
    def fixed_sum(self) -> bool:
        """Whether the equalities fix the sum of the event's free coordinates: utilities may then be shifted."""
        if not self.equalities or not self.curved:
            return False
        A = self.core[: self.equalities].T
        target = (np.arange(self.core.shape[1]) < self.curved).astype(float)  # type: ignore[index]
        y = sp.linalg.lsqr(A, target, atol=1e-14, btol=1e-14)[0]
        return bool(np.abs(A @ y - target).max() <= 1e-9)

    @property
    def auxiliary(self) -> int:
        """Number of columns that are neither event coordinates nor slacks."""
        return self.lower.size - self.curved - self.slacks


def standard_form(hull: LinearHull, domain: tuple[float, float]) -> StandardForm:
    """Presolve a hull whose event coordinates must also lie in ``domain``.

    Implicit equalities are stated and fixed columns eliminated, rows scaled to unit size, rows that the bounds imply
    and repeated rows dropped, and so are equalities that depend on others.

    Raises:
        ValueError: no point of the relative interior was found (the hull is empty within the domain).
    """
    presolved = presolve(hull, domain)
    hull = presolved.hull
    if presolved.inside is None:
        raise ValueError("the hull has no point within the regularizer's domain: check its constraints.")

    fixed = hull.lower == hull.upper
    in_rows = np.diff(sp.csc_array(hull.rows).indptr) > 0
    is_event = np.zeros(fixed.size, bool)
    is_event[hull.event] = True
    free = np.flatnonzero(~fixed[hull.event])
    auxiliary = np.flatnonzero(~is_event & ~fixed & in_rows)
    order = np.concatenate([hull.event[free], auxiliary])

    rows, row_lower, row_upper = _substitute(hull, fixed, order)
    equal = row_lower == row_upper
    bounds = hull.lower[order], hull.upper[order]
    equalities = np.flatnonzero(equal)
    chosen = equalities[independent_rows(rows[equalities])]
    A, b = rows[chosen], row_upper[chosen]
    G, h = _not_implied(rows[np.flatnonzero(~equal)], row_upper[~equal], *bounds)
    inside = presolved.inside[order]
    form = StandardForm(
        sp.csr_array(sp.vstack([A, G])),
        np.concatenate([b, h]),
        np.concatenate([bounds[0], np.zeros(h.size)]) + 0.0,  # no negative zeros
        np.concatenate([bounds[1], np.full(h.size, np.inf)]),
        b.size,
        free.size,
        free,
        np.where(fixed[hull.event], hull.lower[hull.event], 0.0),
        start=None,
    )
    form.start = _central(form, np.concatenate([inside, h - G @ inside]))
    return form


def _central(form: StandardForm, w: np.ndarray, iterations: int = 30) -> np.ndarray:
    """Towards the analytic center, where the sum of log distances to the bounds is largest, by damped Newton steps.

    Any point of the relative interior will do to start from; from this one the solver takes a third fewer iterations.
    """
    M: Any = form.matrix
    for _ in range(iterations):
        below, above = 1 / (w - form.lower), 1 / (form.upper - w)  # 0 where there is no bound
        compliance = 1 / (below**2 + above**2 + 1e-8)
        force = below - above
        schur = (M @ sp.diags_array(compliance) @ M.T + 1e-13 * sp.eye_array(form.right.size)).tocsc()
        y = sp.linalg.spsolve(schur, M @ (compliance * force)) if form.right.size else np.zeros(0)
        step = compliance * (force - M.T @ y)
        furthest = max(float(np.max(-step * below, initial=0.0)), float(np.max(step * above, initial=0.0)))
        if not np.isfinite(furthest) or furthest < 1e-2:
            break
        w = w + step / max(1.0, furthest / 0.7)
    return w


def _substitute(hull: LinearHull, fixed: np.ndarray, order: np.ndarray) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Rows over the columns ``order`` with fixed columns moved to the right, scaled to a largest entry of 1."""
    moved = hull.rows @ np.where(fixed, hull.lower, 0.0) if fixed.any() else 0.0
    rows: Any = hull.rows[:, order]
    size = abs(rows).max(axis=1).toarray().ravel() if order.size and rows.shape[0] else np.zeros(rows.shape[0])
    keep = np.flatnonzero(size > 0)
    scale = 1 / size[keep]
    rows = sp.csr_array(sp.diags_array(scale) @ rows[keep])
    return rows, ((hull.row_lower - moved)[keep]) * scale, ((hull.row_upper - moved)[keep]) * scale


def _not_implied(
    G: sp.csr_array, h: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[sp.csr_array, np.ndarray]:
    """Without rows that cannot be violated within the bounds, and without the weaker of two equal rows."""
    up, down = G.maximum(0), (-G).maximum(0)
    with np.errstate(invalid="ignore"):
        open_ended = up @ np.isinf(upper).astype(float) + down @ np.isinf(lower).astype(float) > 0
        most = up @ np.where(np.isinf(upper), 0.0, upper) - down @ np.where(np.isinf(lower), 0.0, lower)
    rows = np.flatnonzero(open_ended | (most > h + 1e-12 * (1 + np.abs(h))))
    rows = rows[np.argsort(h[rows], kind="stable")]
    seen: set[bytes] = set()
    keep = []
    for i in rows:
        part = slice(G.indptr[i], G.indptr[i + 1])
        key = G.indices[part].tobytes() + np.round(G.data[part], 12).tobytes()
        if key not in seen:
            seen.add(key)
            keep.append(i)
    kept = np.sort(np.array(keep, dtype=int))
    return G[kept], h[kept]
