"""Newton systems by dense Cholesky factors.

Either the Schur complement S = M diag(d) M' is factorised, of the size of the rows, or, where rows outnumber columns,
K = diag(1 / d) + G' diag(1 / d_slack) G, of the size of the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from sst_cvx.once import later
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.linear_algebra import Factor
from sst_cvx.paths.interior_point.matrix import sparse_tensor
from sst_cvx.paths.interior_point.standard_form import StandardForm

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


class DenseCore(Protocol):
    """M without slack columns as dense tensors: ``(rows, columns)``, or of each element ``(batch, rows, columns)``."""

    core: torch.Tensor
    core_t: torch.Tensor
    equalities: int
    slacks: int

    def times(self, w: torch.Tensor) -> torch.Tensor: ...
    def dual_residual(self, linear: torch.Tensor, y: torch.Tensor) -> torch.Tensor: ...
    def gram(self, d: torch.Tensor) -> torch.Tensor: ...


def _product(v: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Rows ``(batch, m)`` times a matrix ``(m, n)``, or each its own."""
    return v @ matrix if matrix.dim() == 2 else (v[:, None] @ matrix)[:, 0]


def _products(core: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Places of the entries of core diag(d) core' that are not 0 for every d, of rows times rows, and the sparse matrix
    that makes them of d: of the products of entries in one column. None where these are many, and a dense product is
    faster."""
    columns: Any = sp.csc_array(core)
    count = np.diff(columns.indptr)
    terms, size = np.repeat(count, count), columns.shape[0]
    few = 0 < terms.sum() * tolerances.SPARSE_PRODUCT <= size * columns.nnz
    if not few or size < tolerances.SPARSE_ROWS:
        return None
    left = np.repeat(np.arange(columns.nnz), terms)
    right = np.arange(len(left)) - np.repeat(terms.cumsum() - terms, terms) + np.repeat(columns.indptr[:-1], count**2)
    places, which = np.unique(columns.indices[left] * np.int64(size) + columns.indices[right], return_inverse=True)
    entries = columns.data[left] * columns.data[right], (which, np.repeat(np.arange(len(count)), count**2))
    products = sp.csr_array(sp.coo_array(entries, shape=(len(places), len(count))))
    return torch.as_tensor(places, device=device), sparse_tensor(products, device)


class DenseRows:
    """M as dense tensors on one device."""

    def __init__(self, form: StandardForm, device: torch.device):
        self.core = torch.as_tensor(form.core.toarray(), dtype=torch.float64, device=device)
        self.core_t = self.core.T.contiguous()
        self.equalities, self.slacks = form.equalities, form.slacks
        self.condensed = self.slacks > tolerances.CONDENSED * (form.columns - form.slacks)
        self._products = _products(form.core, device)

    def __getitem__(self, index: object) -> DenseRows:
        """Of some elements: shared by all."""
        return self

    def residual(self, right: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """right - M w, ``(batch, rows)``."""
        if not self.slacks:
            return torch.addmm(right, w, self.core_t, alpha=-1)
        left = torch.addmm(right, w[:, : -self.slacks], self.core_t, alpha=-1)
        left[:, self.equalities :] -= w[:, -self.slacks :]
        return left

    def dual_residual(self, linear: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """linear - M' y, ``(batch, columns)``."""
        if not self.slacks:
            return torch.addmm(linear, y, self.core, alpha=-1)
        return linear - self.transposed(y)

    def times(self, w: torch.Tensor) -> torch.Tensor:
        """M w, ``(batch, rows)``."""
        if not self.slacks:
            return w @ self.core_t
        product = w[:, : -self.slacks] @ self.core_t
        product[:, self.equalities :] += w[:, -self.slacks :]
        return product

    def transposed(self, y: torch.Tensor) -> torch.Tensor:
        """M' y, ``(batch, columns)``."""
        product = y @ self.core
        return torch.cat([product, y[:, self.equalities :]], 1) if self.slacks else product

    def gram(self, d: torch.Tensor) -> torch.Tensor:
        """core diag(d) core', ``(batch, rows, rows)``: where that is sparse, by its entries alone."""
        if self._products is None:
            return torch.matmul(self.core * d[:, None, :], self.core_t)
        places, products = self._products
        flat = d.new_zeros(len(d), len(self.core) ** 2)
        return flat.index_copy_(1, places, (products @ d.T).T).unflatten(1, self.core.shape[:1] * 2)

    def factor(self, d: torch.Tensor) -> Factor:
        """Factorise for d ``(batch, columns)``, all positive and finite, by the smaller of the two matrices."""
        return CondensedFactor(self, d) if self.condensed else SchurFactor(self, d)

    def factor_active(self, d: torch.Tensor, t: torch.Tensor) -> Factor:
        """Factorise where d has zeros (fixed columns) and 1e20 (free slacks), regularised for temperatures t
        ``(batch, 1)``: refinement is up to the caller."""
        return SchurFactor(self, d, tolerances.FLOOR / t)


class _Cholesky:
    """Of symmetric positive (semi)definite matrices, with a relative ridge that grows where it must."""

    def __init__(self, matrix: torch.Tensor):
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + tolerances.RIDGE)
        self._factor, failed = torch.linalg.cholesky_ex(matrix)
        ridge = tolerances.RIDGE
        while bool(failed.any()) and ridge < tolerances.LARGEST_RIDGE:
            ridge *= tolerances.RIDGE_GROWTH
            bad = torch.nonzero(failed).flatten()
            diagonal[bad] *= 1 + ridge
            self._factor[bad], failed[bad] = torch.linalg.cholesky_ex(matrix[bad])

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """Right sides ``(batch, size)``."""
        return torch.cholesky_solve(right[:, :, None], self._factor)[:, :, 0]

    def solve_many(self, right: torch.Tensor) -> torch.Tensor:
        """Right sides ``(batch, size, count)``."""
        return torch.cholesky_solve(right, self._factor)


class _Scalar:
    """A 1 x 1 matrix."""

    def __init__(self, matrix: torch.Tensor):
        self._inverse = matrix[:, :, 0].clamp(min=1e-200).reciprocal()

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        return right * self._inverse


class SchurFactor:
    """By S = M diag(d) M' + diag(floor). d may be 0 (a fixed column) or infinite in effect (1e20: a free slack)."""

    def __init__(self, rows: DenseCore, d: torch.Tensor, floor: torch.Tensor | None = None):
        self._rows, self._d = rows, d
        structural = d[:, : d.shape[1] - rows.slacks]
        matrix = rows.gram(structural)
        if floor is not None:
            matrix.diagonal(dim1=1, dim2=2).add_(floor)
        if rows.slacks:
            matrix.diagonal(dim1=1, dim2=2)[:, rows.equalities :] += d[:, -rows.slacks :]
        self._matrix = _Scalar(matrix) if matrix.shape[1] == 1 else _Cholesky(matrix)

    def solve(self, p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dw and dy for right sides p ``(batch, columns)`` and q ``(batch, rows)``."""
        dy = self._matrix.solve(self._rows.times(self._d * p) - q)
        return self._d * self._rows.dual_residual(p, dy), dy


class CondensedFactor:
    """By K = diag(1 / d) + G' diag(1 / d_slack) G, and the Schur complement of the equalities in it."""

    def __init__(self, rows: DenseCore, d: torch.Tensor):
        self._rows = rows
        structural, slack = d[:, : -rows.slacks], d[:, -rows.slacks :]
        self._A, self._G = rows.core[..., : rows.equalities, :], rows.core[..., rows.equalities :, :]
        self._weight = slack.reciprocal().clamp(max=tolerances.LARGEST_RECIPROCAL)
        matrix = torch.matmul(self._G.mT * self._weight[:, None, :], self._G)
        matrix.diagonal(dim1=1, dim2=2).add_(structural.reciprocal().clamp(max=tolerances.LARGEST_RECIPROCAL))
        self._matrix = _Cholesky(matrix)
        if rows.equalities:
            self._spread = self._matrix.solve_many(self._A.mT.expand(len(d), -1, -1))
            self._schur = _Cholesky(self._A @ self._spread)

    def solve(self, p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dw and dy for right sides p ``(batch, columns)`` and q ``(batch, rows)``."""
        rows = self._rows
        p_slack, q_slack = p[:, -rows.slacks :], q[:, rows.equalities :]
        right = p[:, : -rows.slacks] - _product(p_slack - self._weight * q_slack, self._G)
        dw = self._matrix.solve(right)
        dy = q[:, : rows.equalities]
        if rows.equalities:
            dy = self._schur.solve(_product(dw, self._A.mT) - dy)
            dw = dw - (self._spread @ dy[:, :, None])[:, :, 0]
        dw_slack = q_slack - _product(dw, self._G.mT)
        return torch.cat([dw, dw_slack], 1), torch.cat([dy, p_slack - self._weight * dw_slack], 1)
