"""Linear hulls as numbers: bounds of columns and rows, and rows whose right sides depend on parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.linalg as linalg
    import scipy.sparse as sp
else:
    linalg = later("scipy.linalg")
    sp = later("scipy.sparse")

_DENSE_RANK = 3000  # rows or columns up to which dependent rows are sought by a pivoted QR
_RANK = 1e-10  # of its diagonal, relative to the largest entry, that counts as zero


@dataclass
class LinearHull:
    """{ w : lower <= w <= upper, row_lower <= rows @ w <= row_upper }, singleton rows folded into the bounds.

    ``event`` are the columns of the event variable in row-major order.
    """

    lower: np.ndarray
    upper: np.ndarray
    rows: sp.csr_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    event: np.ndarray

    @classmethod
    def from_rows(cls, A: sp.csr_array, b: np.ndarray, equalities: int, event: np.ndarray) -> LinearHull:
        """From ``A w = b`` in the first ``equalities`` rows and ``A w <= b`` in the others."""
        A = sp.csr_array(A)
        A.eliminate_zeros()
        row_lower = np.where(np.arange(b.size) < equalities, b, -np.inf)
        columns = cast(tuple[int, int], A.shape)[1]
        lower, upper = np.full(columns, -np.inf), np.full(columns, np.inf)
        single = np.diff(A.indptr) == 1
        entries = A.indptr[:-1][single]
        places, factors = A.indices[entries], A.data[entries]
        with np.errstate(invalid="ignore"):
            ends = np.stack([row_lower[single] / factors, b[single] / factors])
        np.maximum.at(lower, places, ends.min(axis=0))
        np.minimum.at(upper, places, ends.max(axis=0))
        rest = ~single  # rows without any entry stay: they say "infeasible" when 0 does not satisfy them
        return cls(lower, upper, A[rest], row_lower[rest], b[rest], event)


@dataclass
class AffineRows:
    """{ w : A w = b in the first ``equalities`` rows, A w <= b in the others }, b = right + sensitivity @ theta.

    ``parameters`` are the places of each parameter, flattened by columns, in theta.
    """

    matrix: sp.csr_array
    right: np.ndarray
    sensitivity: sp.csr_array
    equalities: int
    event: np.ndarray
    parameters: dict[str, slice]

    def theta(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Parameters ``(batch, *shape)`` by name as ``(batch, count)``, in CVXPY's column-major order."""
        ordered = sorted(values, key=lambda name: self.parameters[name].start)
        return torch.cat([_by_columns(values[name]) for name in ordered], 1)


def _by_columns(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, *range(value.dim() - 1, 0, -1)).reshape(len(value), -1)


def _unit_rows(size: np.ndarray) -> np.ndarray:
    """Powers of two that bring rows with these largest entries to between 1/2 and 1."""
    return np.where(size > 0, np.exp2(-np.ceil(np.log2(np.where(size > 0, size, 1.0)))), 1.0)


def independent_rows(A: Any) -> np.ndarray:
    """Places of a largest independent set of rows, ascending, by QR with pivoting; of larger systems, all."""
    count, columns = A.shape
    if count < 2 or max(count, columns) > _DENSE_RANK:
        return np.arange(count)
    dense = A.toarray() if sp.issparse(A) else A
    dense = dense * _unit_rows(np.abs(dense).max(axis=1))[:, None]
    triangle, pivots = cast(Any, linalg.qr(dense.T, mode="r", pivoting=True))
    diagonal = np.abs(np.diagonal(triangle))
    return np.sort(pivots[: int((diagonal > _RANK * diagonal.max(initial=0.0)).sum())])
