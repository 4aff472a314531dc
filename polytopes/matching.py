"""Matchings of n rows with m columns: 0/1 matrices with at most one 1 in each row and column.

Perfect (n = m): every row and column is matched, conv(X) is the Birkhoff polytope of doubly stochastic matrices.
Rectangular: the smaller side is matched completely. Partial: nothing has to be matched. All these hulls are integral,
as incidence matrices of bipartite graphs are totally unimodular.

Paper, section 4.3. The categorical entropy gives Sinkhorn matching (Mena et al., "Learning Latent Permutations with
Gumbel-Sinkhorn Networks", 2018), here by Newton's method. The exponential family needs the permanent, a #P-hard sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable

import cvxpy as cp
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

import sst_cvx as sst
from polytopes.kernels.log_weights import widened
from polytopes.kernels.permanent import LARGEST_PERMANENT, log_matchings
from polytopes.kernels.sinkhorn import doubly_stochastic
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import constants


class Matching(sst.Structure, final=True):
    """Pairs of rows and columns, each in one pair at most; event shape ``(n, m)``.

    Args:
        n: number of rows, at least 1.
        m: number of columns, at least 1; by default n.
        partial: rows and columns may stay alone; otherwise the smaller side is matched completely.
    """

    known_binary = True

    def __init__(self, n: int, m: int | None = None, partial: bool = False):
        self.n = check_size("n", n, 1)
        self.m = self.n if m is None else check_size("m", m, 1)
        self.partial = bool(partial)
        x = cp.Variable((self.n, self.m))
        rows, columns = cp.sum(x, axis=1), cp.sum(x, axis=0)
        super().__init__(
            x,
            [
                x >= 0,
                columns == 1 if self._every_column else columns <= 1,
                rows == 1 if self._every_row else rows <= 1,
            ],
        )
        if min(self.n, self.m) > LARGEST_PERMANENT:
            self.log_partition_refusal = (
                f"the log-partition of {self!r} is the logarithm of a permanent, out of reach beyond "
                f"{LARGEST_PERMANENT} rows or columns: use CategoricalEntropy() instead"
            )

    @property
    def _every_row(self) -> bool:
        return not self.partial and self.n <= self.m

    @property
    def _every_column(self) -> bool:
        return not self.partial and self.m <= self.n

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A maximum-weight matching. Visits the CPU, one SciPy ``linear_sum_assignment`` a batch element."""
        flat = u.reshape(-1, self.n, self.m).to("cpu", torch.float64).numpy()
        if self.partial:  # staying alone is worth 0
            flat = flat.clip(min=0)
        x = np.zeros_like(flat)
        for matrix, chosen in zip(flat, x, strict=True):
            chosen[linear_sum_assignment(matrix, maximize=True)] = 1.0
        if self.partial:
            x[flat <= 0] = 0.0
        return torch.from_numpy(x).to(u).reshape(u.shape)

    @constants()
    def vertices(self) -> torch.Tensor:
        few, many = sorted((self.n, self.m))
        sizes = range(few + 1) if self.partial else [few]
        check_vertex_count(self, sum(math.comb(few, k) * math.perm(many, k) for k in sizes))
        found = []
        for k in sizes:
            for side in itertools.combinations(range(few), k):
                found += [[*zip(side, other, strict=True)] for other in itertools.permutations(range(many), k)]
        x = torch.zeros(len(found), few, many, dtype=torch.float64)
        for matrix, pairs in zip(x, found, strict=True):
            for i, j in pairs:
                matrix[i, j] = 1.0
        return x if self.n <= self.m else x.mT.contiguous()

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over matchings of exp <u, x>, by dynamic programming over sets of the smaller side.

        In log-space, O(many few 2^few) operations with few <= 12.

        Raises:
            ValueError: the smaller side is larger.
        """
        if self.log_partition_refusal:
            raise ValueError(self.log_partition_refusal + ".")
        return log_matchings(u, self._every_row, self._every_column)

    def length_mask(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Mask of padded sides: numbers of rows and of columns (by default as many) ``(*batch,)`` to
        ``(*batch, n, m)`` bool."""
        beside = sst.length_mask(rows if columns is None else columns, self.m)
        return sst.length_mask(rows, self.n)[..., :, None] & beside[..., None, :]

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """Rows without any allowed column are paired with columns without any allowed row, in order."""
        if self.partial:
            return None
        rows, columns = ~allowed.any(-1), ~allowed.any(-2)
        together = rows.cumsum(-1)[..., :, None] == columns.cumsum(-1)[..., None, :]
        return rows[..., :, None] & columns[..., None, :] & together

    def _key(self) -> Hashable:
        return self.n, self.m, self.partial

    def __repr__(self) -> str:
        columns = f", m={self.m}" if self.m != self.n else ""
        return f"Matching(n={self.n}{columns}{', partial=True' if self.partial else ''})"


def _perfect(structure: Matching, regularizer: sst.Regularizer) -> bool:
    """Otherwise slacks would need an entropy of their own."""
    return structure.n == structure.m and not structure.partial


@sst.fast_path(Matching, sst.CategoricalEntropy, when=_perfect)
def sinkhorn(structure: Matching, regularizer: sst.CategoricalEntropy, u: torch.Tensor) -> torch.Tensor:
    return doubly_stochastic(u)
