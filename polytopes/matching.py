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
from functools import lru_cache

import cvxpy as cp
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

import sst_cvx as sst
from polytopes.kernels.precision import widened
from polytopes.kernels.sinkhorn import doubly_stochastic
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import constants

LARGEST_PERMANENT = 12  # n 2^(n-1) terms a batch element


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


def log_matchings(u: torch.Tensor, every_row: bool, every_column: bool) -> torch.Tensor:
    """log of the sum over matchings of exp of their sums: ``(*batch, n, m)`` to ``(*batch,)``; a permanent if perfect.

    Goes through the larger side; entry S of a table is the log-sum over ways to match what was seen with the set S of
    the smaller side. Only sums of positive terms occur, so it is stable at any scale, unlike Ryser's formula.
    """
    dtype, u = u.dtype, u.double()  # sums of 1,000 would leave float32 four digits of a difference
    if u.shape[-2] < u.shape[-1]:
        u, every_row, every_column = u.mT, every_column, every_row
    many, few = u.shape[-2:]
    tables = {0: torch.zeros_like(u[..., :1, 0])}
    for seen in range(1, many + 1):
        least = max(0, few - (many - seen)) if every_column else 0
        following = {}
        for size in range(least, min(seen, few) + 1):
            ways = [tables[size]] if size in tables and not every_row else []
            if size and size - 1 in tables:
                before, column = (index.to(u.device) for index in _predecessors(few, size))
                joined = tables[size - 1][..., before] + u[..., seen - 1, :][..., column]
                ways += list(joined.unbind(-1))
            if ways:
                following[size] = torch.stack(ways, -1).logsumexp(-1)
        tables = following
    if every_column:
        return tables[few][..., 0].to(dtype)
    return torch.cat(list(tables.values()), -1).logsumexp(-1).to(dtype)


@lru_cache(maxsize=64)
@constants()
def _predecessors(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each set of ``size`` columns (in combinations order): the ranks of the sets with one left out, and which."""
    rank = {s: i for i, s in enumerate(itertools.combinations(range(n), size - 1))}
    sets = list(itertools.combinations(range(n), size))
    before = [[rank[s[:j] + s[j + 1 :]] for j in range(size)] for s in sets]
    return torch.tensor(before), torch.tensor(sets)


def _perfect(structure: Matching, regularizer: sst.Regularizer) -> bool:
    """Otherwise slacks would need an entropy of their own."""
    return structure.n == structure.m and not structure.partial


@sst.fast_path(Matching, sst.CategoricalEntropy, when=_perfect)
def sinkhorn(structure: Matching, regularizer: sst.CategoricalEntropy, u: torch.Tensor) -> torch.Tensor:
    return doubly_stochastic(u)
