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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.log_weights import widened
from polytopes.kernels.permanent import LARGEST_PERMANENT, log_matchings
from polytopes.kernels.sinkhorn import entropic_matching
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.errors import SolveError
from sst_cvx.host import stops_early
from sst_cvx.once import constants, later
from sst_cvx.structure.masks import Mask

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.optimize as optimize
else:
    cp = later("cvxpy")
    optimize = later("scipy.optimize")


class Matching(sst.Structure, final=True):
    """Pairs of rows and columns, each in one pair at most; event shape ``(n, m)``.

    Under a mask, rows and columns without any allowed partner are not there; of those that are left, the sides that
    are matched completely still are.

    Args:
        n: number of rows, at least 1.
        m: number of columns, at least 1; by default n.
        partial: rows and columns may stay alone; otherwise the smaller side is matched completely.
    """

    known_binary = True
    known_bounded = True

    def __init__(self, n: int, m: int | None = None, partial: bool = False):
        self.n = check_size("n", n, 1)
        self.m = self.n if m is None else check_size("m", m, 1)
        self.partial = bool(partial)
        super().__init__(event_shape=(self.n, self.m))
        if min(self.n, self.m) > LARGEST_PERMANENT:
            self.log_partition_refusal = (
                f"the log-partition of {self!r} is the logarithm of a permanent, out of reach beyond "
                f"{LARGEST_PERMANENT} rows or columns: use CategoricalEntropy() instead"
            )

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable((self.n, self.m))
        rows, columns = cp.sum(x, axis=1), cp.sum(x, axis=0)
        return x, [
            x >= 0,
            columns == 1 if self._every_column else columns <= 1,
            rows == 1 if self._every_row else rows <= 1,
        ]

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
            chosen[optimize.linear_sum_assignment(matrix, maximize=True)] = 1.0
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

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """By entries and sums of rows and columns, as the hull's: relative to 1 + their bound."""
        entries = x.reshape(-1, self.n, self.m)
        worst = (-entries).flatten(1).amax(1)
        for sums, every in ((entries.sum(-1), self._every_row), (entries.sum(-2), self._every_column)):
            off = (sums - 1) / 2
            worst = torch.maximum(worst, (off.abs() if every else off).amax(-1))
        return worst.clamp(min=0.0)

    def length_mask(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Mask of padded sides: numbers of rows and of columns (by default as many) ``(*batch,)`` to
        ``(*batch, n, m)`` bool."""
        beside = sst.length_mask(rows if columns is None else columns, self.m)
        return sst.length_mask(rows, self.n)[..., :, None] & beside[..., None, :]

    def check_mask(self, mask: object, shape: torch.Size, device: torch.device | None = None) -> Mask:
        """As the base's.

        Raises:
            SolveError: more rows than columns are left where every row is to be matched, or the other way round. Where
                the host must not be asked, answers show it: forbidden items carry weight.
        """
        masked = super().check_mask(mask, shape, device)
        if not stops_early(masked.allowed):
            return masked
        more = masked.allowed.any(-1).sum(-1) - masked.allowed.any(-2).sum(-1)
        for every, excess, names in ((self._every_row, more, "rows"), (self._every_column, -more, "columns")):
            wrong = torch.nonzero(excess.reshape(-1) > 0).flatten()
            if every and wrong.numel():
                others = "columns" if names == "rows" else "rows"
                raise SolveError(
                    f"{self!r} has no element left for {{elements}}: all {names} that have an allowed item are to be "
                    f"matched, but fewer {others} have one. Allow more, drop these elements, or use partial=True.",
                    wrong.tolist(),
                ).in_batch(more.shape)
        return masked

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """Rows that are not there are paired with columns that are not there, in order. Where these are too few, all
        such rows (columns, if these are to be matched) may be paired with any column (row): in equally many ways,
        whatever the others do."""
        if self.partial:
            return None
        rows, columns, freely = self._absent(allowed)
        together = rows.cumsum(-1)[..., :, None] == columns.cumsum(-1)[..., None, :]
        pairs = rows[..., :, None] & columns[..., None, :] & together
        anywhere = rows[..., :, None] if self._every_row else columns[..., None, :]
        return torch.where(freely[..., None, None], anywhere, pairs)

    def _absent(self, allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows ``(*batch, n)`` and columns ``(*batch, m)`` that are not there; where more of those that would have to
        be matched than of the others, ``(*batch,)``."""
        rows, columns = ~allowed.any(-1), ~allowed.any(-2)
        more = rows.sum(-1) - columns.sum(-1)
        return rows, columns, more > 0 if self._every_row else more < 0

    def with_fillers(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        """As the base's; where rows (columns) may be paired with any, by what the others leave of each."""
        paired = super().with_fillers(x, mask)
        if self.partial or self.n == self.m:
            return paired
        rows, columns, freely = self._absent(mask.allowed)
        turned = x.mT if self._every_column else x
        absent = (columns if self._every_column else rows).to(x.dtype)
        left = (1 - turned.detach().sum(-2)).clamp(min=0.0)
        total = torch.maximum(absent.sum(-1), left.sum(-1)).clamp(min=1.0)
        shared = turned + absent[..., :, None] * left[..., None, :] / total[..., None, None]
        return torch.where(freely[..., None, None], shared.mT if self._every_column else shared, paired)

    def masked_log_partition(self, u: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``log_partition`` over what a mask leaves: less the number of ways to pair what is not there."""
        values = super().masked_log_partition(u.double(), mask)
        if self.partial or self.n == self.m:
            return values.to(u.dtype)
        rows, columns, freely = self._absent(self.check_mask(mask, u.shape, u.device).allowed)
        absent, beyond = (rows if self._every_row else columns).sum(-1).to(values.dtype), abs(self.m - self.n)
        ways = torch.lgamma(absent + beyond + 1) - math.lgamma(beyond + 1)
        return (values - torch.where(freely, ways, 0.0)).to(u.dtype)

    def face(self, allowed: np.ndarray) -> sst.Structure:
        """As the base's; where rows (columns) may be paired with any, without those that are not there."""
        left = torch.from_numpy(allowed).reshape(self.n, self.m)
        freely = not self.partial and self.n != self.m and bool(self._absent(left)[2])
        return _Remaining(self, left) if freely else super().face(allowed)

    def _key(self) -> Hashable:
        return self.n, self.m, self.partial

    def __repr__(self) -> str:
        columns = f", m={self.m}" if self.m != self.n else ""
        return f"Matching(n={self.n}{columns}{', partial=True' if self.partial else ''})"


class _Remaining(sst.Structure, final=True):
    """What a mask leaves of a rectangular matching, in its event shape."""

    known_binary = True

    def __init__(self, whole: Matching, allowed: torch.Tensor):
        self._whole, self._allowed = whole, allowed
        x, (rows, columns, _) = whole.variable, whole._absent(allowed)
        hull: list[cp.Constraint] = [x >= 0, x[~allowed.numpy()] == 0]
        for axis, absent, every in ((1, rows, whole._every_row), (0, columns, whole._every_column)):
            sums: Any = cp.sum(x, axis=axis)[np.flatnonzero(~absent)]  # pyright: ignore
            hull.append(sums == 1 if every else sums <= 1)
        super().__init__(x, hull)

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        return self._whole.masked_argmax(u, self._allowed)

    @constants()
    def vertices(self) -> torch.Tensor:
        fillers = self._whole.fillers(self._allowed)
        points, kept = self._whole.vertices(), self._allowed if fillers is None else self._allowed | fillers
        return (points[(points[:, ~kept] == 0).all(1)] * self._allowed).unique(dim=0)


@sst.fast_path(Matching, sst.CategoricalEntropy, supports_masks=True)
def sinkhorn(
    structure: Matching, regularizer: sst.CategoricalEntropy, u: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    x = entropic_matching(u, structure._every_row, structure._every_column, mask)
    return x if mask is None else structure.with_fillers(x, structure.check_mask(mask, u.shape, u.device))
