"""Units in which a hull's numbers are of order 1, for solvers whose tolerances are absolute.

HiGHS drops coefficients of 1e-9 and less, in silence, and takes 1e-9 for zero; rows and columns are measured in powers
of two first, which rounds nothing. Curtis and Reid's (1972) scaling: with r and c the logarithms of their units, the
sum of (log |a_ij| + r_i + c_j)^2 is least, over coefficients, right sides (a column whose unit is 1) and bounds (rows
with one entry). Hulls that differ in units alone become one and the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx.hull.linear import LinearHull
from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.sparse as sp
    import scipy.sparse.linalg as sparse_linalg
else:
    sp = later("scipy.sparse")
    sparse_linalg = later("scipy.sparse.linalg")

_MODERATE = (1e-4, 1e4)  # numbers between these need no other units
_MOST = 900.0  # binary exponent


@dataclass
class Units:
    """What 1 is in a row's and a column's own unit: powers of two, ``(rows,)`` and ``(columns,)``."""

    rows: np.ndarray
    columns: np.ndarray

    @staticmethod
    def of(hull: LinearHull, whole: np.ndarray | None = None) -> Units | None:
        """Of a linear hull; None where all its numbers are moderate.

        Args:
            whole: columns that must stay in units of 1, because they are to be integers.
        """
        A, right, sizes = hull.rows, _magnitude(hull.row_lower, hull.row_upper), _sizes(hull)
        if _moderate(A.data, right, sizes):
            return None
        rows, columns = A.shape  # type: ignore[misc]
        bounded = np.flatnonzero(sizes > 0)
        # the rows of bounds: x_j <= size
        matrix = sp.vstack(
            [
                A,
                sp.csr_array(
                    (np.ones(bounded.size), bounded, np.arange(bounded.size + 1)), shape=(bounded.size, columns)
                ),
            ]
        )
        r, c = _least_squares(
            sp.coo_array(matrix), np.concatenate([right, sizes[bounded]]), np.arange(rows + bounded.size), whole
        )
        return Units(r[:rows], c)

    @staticmethod
    def of_cone(A: Any, right: np.ndarray, blocks: np.ndarray) -> Units | None:
        """Of { w : right - A w in K }, with one unit for all rows of a block (a cone of more than one dimension)."""
        A = sp.csr_array(A)
        if _moderate(A.data, np.abs(right)):
            return None
        r, c = _least_squares(sp.coo_array(A), np.abs(right), blocks, None)
        return Units(r[blocks], c)

    def matrix(self, A: Any) -> sp.csr_array:
        """Coefficients in these units."""
        return sp.csr_array(sp.diags_array(self.rows) @ sp.csr_array(A) @ sp.diags_array(self.columns))

    def hull(self, hull: LinearHull) -> LinearHull:
        """The hull in these units: w = columns * its points."""
        return replace(
            hull,
            lower=hull.lower / self.columns,
            upper=hull.upper / self.columns,
            rows=self.matrix(hull.rows),
            row_lower=hull.row_lower * self.rows,
            row_upper=hull.row_upper * self.rows,
        )


def _moderate(*numbers: np.ndarray) -> bool:
    low, high = _MODERATE
    return all(bool(((np.abs(part) >= low) & (np.abs(part) <= high) | (part == 0)).all()) for part in numbers)


def _magnitude(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The larger finite absolute end of each interval; 0 where there is none."""
    return np.maximum(*(np.where(np.isfinite(end), np.abs(end), 0.0) for end in (lower, upper)))


def _sizes(hull: LinearHull) -> np.ndarray:
    """Of each column: how far its bounds are apart, where both are finite and differ, else the larger one."""
    with np.errstate(invalid="ignore"):
        width = hull.upper - hull.lower
    return np.where(np.isfinite(width) & (width > 0), width, _magnitude(hull.lower, hull.upper))


def _least_squares(
    A: Any, right: np.ndarray, group: np.ndarray, whole: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Units of the groups of rows and of the columns."""
    groups, columns = int(group.max(initial=-1)) + 1, A.shape[1]
    entries, sides = np.flatnonzero(A.data), np.flatnonzero(right)
    i, j = A.coords[0][entries], A.coords[1][entries]
    logs = np.concatenate([np.log2(np.abs(A.data[entries])), np.log2(right[sides])])
    number = np.arange(entries.size + sides.size)
    of_rows = sp.csr_array(
        (np.ones(number.size), (number, group[np.concatenate([i, sides])])), shape=(number.size, groups)
    )
    chosen = np.ones(entries.size) if whole is None else (~np.isin(j, whole)).astype(float)
    of_columns = sp.csr_array((chosen, (number[: entries.size], j)), shape=(number.size, columns))
    found = sparse_linalg.lsqr(sp.hstack([of_rows, of_columns], format="csr"), -logs, atol=1e-6, btol=1e-6)[0]
    units = np.exp2(np.clip(np.round(found), -_MOST, _MOST))
    return units[:groups], units[groups:]
