"""Newton systems by dense Cholesky factors, with a matrix of each element its own."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.dense import CondensedFactor, SchurFactor
from sst_cvx.paths.interior_point.linear_algebra import Factor


class BatchedRows:
    """As ``DenseRows``, with an M of each element: ``core`` is ``(batch, rows, columns)``."""

    def __init__(self, core: torch.Tensor, equalities: int):
        self.core, self.core_t = core, core.mT
        self.equalities, self.slacks = equalities, core.shape[1] - equalities
        self.condensed = self.slacks > tolerances.CONDENSED * core.shape[2]

    def __getitem__(self, index: Any) -> BatchedRows:
        core = self.core[index]
        return BatchedRows(core if core.dim() == 3 else core[None], self.equalities)

    def times(self, w: torch.Tensor) -> torch.Tensor:
        """M w, ``(batch, rows)``."""
        product = _each(self.core, w[:, : -self.slacks] if self.slacks else w)
        if self.slacks:
            product[:, self.equalities :] += w[:, -self.slacks :]
        return product

    def transposed(self, y: torch.Tensor) -> torch.Tensor:
        """M' y, ``(batch, columns)``."""
        product = _each(self.core_t, y)
        return torch.cat([product, y[:, self.equalities :]], 1) if self.slacks else product

    def residual(self, right: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """right - M w, ``(batch, rows)``."""
        if self.slacks:
            return right - self.times(w)
        return torch.baddbmm(right[:, :, None], self.core, w[:, :, None], alpha=-1)[:, :, 0]

    def dual_residual(self, linear: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """linear - M' y, ``(batch, columns)``."""
        if self.slacks:
            return linear - self.transposed(y)
        return torch.baddbmm(linear[:, :, None], self.core_t, y[:, :, None], alpha=-1)[:, :, 0]

    def gram(self, d: torch.Tensor) -> torch.Tensor:
        """core diag(d) core', ``(batch, rows, rows)``."""
        return torch.matmul(self.core * d[:, None, :], self.core_t)

    def factor(self, d: torch.Tensor) -> Factor:
        """Factorise for d ``(batch, columns)``, all positive and finite, by the smaller of the two matrices."""
        return CondensedFactor(self, d) if self.condensed else SchurFactor(self, d)

    def factor_active(self, d: torch.Tensor, t: torch.Tensor) -> Factor:
        """Factorise where d has zeros (fixed columns) and 1e20 (free slacks), regularised for temperatures t
        ``(batch, 1)``: refinement is up to the caller."""
        return SchurFactor(self, d, tolerances.FLOOR / t)


def _each(matrix: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Matrices ``(batch, m, n)``, or one of them, times vectors ``(batch, n)``."""
    if matrix.shape[0] != v.shape[0]:
        matrix = matrix.expand(len(v), -1, -1)
    return torch.bmm(matrix, v[:, :, None])[:, :, 0]
