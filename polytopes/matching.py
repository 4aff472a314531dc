"""Perfect matchings of n with n: permutation matrices X, conv(X) the Birkhoff polytope of doubly stochastic matrices.

Paper, section 4.3. The categorical entropy gives Sinkhorn matching (Mena et al., "Learning Latent Permutations with
Gumbel-Sinkhorn Networks", 2018), here by Newton's method. The exponential family needs the permanent, a #P-hard sum.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import cvxpy as cp
import torch
from scipy.optimize import linear_sum_assignment

import sst_cvx as sst
from sst_cvx.sinkhorn import doubly_stochastic
from sst_cvx.validation import check_finite, check_size, check_utilities, check_vertex_count

LARGEST_PERMANENT = 12  # n 2^(n-1) terms a batch element


class Matching(sst.Structure, final=True):
    """Each of n rows with one of n columns; event shape ``(n, n)``.

    Args:
        n: number of rows and of columns, at least 1.
    """

    def __init__(self, n: int):
        self.n = check_size("n", n, 1)
        x = cp.Variable((n, n))
        super().__init__(x, [x >= 0, cp.sum(x, axis=0) == 1, cp.sum(x, axis=1) == 1])
        if n > LARGEST_PERMANENT:
            self.log_partition_refusal = (
                f"the log-partition of {self!r} is the logarithm of a permanent, out of reach beyond "
                f"n = {LARGEST_PERMANENT}: use CategoricalEntropy() (Sinkhorn) instead"
            )

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A maximum-weight assignment. Visits the CPU, one SciPy ``linear_sum_assignment`` a batch element."""
        batch_shape = check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        flat = u.detach().reshape(-1, self.n, self.n).to("cpu", torch.float64).numpy()
        columns = torch.empty(len(flat), self.n, 1, dtype=torch.long)
        for i, matrix in enumerate(flat):
            columns[i, :, 0] = torch.from_numpy(linear_sum_assignment(matrix, maximize=True)[1])
        return torch.zeros_like(u).scatter(-1, columns.reshape(*batch_shape, self.n, 1).to(u.device), 1.0)

    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, math.factorial(self.n))
        orders = torch.tensor(list(itertools.permutations(range(self.n))))
        return torch.zeros(len(orders), self.n, self.n, dtype=torch.float64).scatter(-1, orders.unsqueeze(-1), 1.0)

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log per(exp u), by dynamic programming over sets of columns in log-space: O(n 2^n), n <= 12.

        Raises:
            ValueError: n is larger.
        """
        if self.log_partition_refusal:
            raise ValueError(self.log_partition_refusal + ".")
        return log_permanent(u)

    def __repr__(self) -> str:
        return f"Matching(n={self.n})"


def log_permanent(u: torch.Tensor) -> torch.Tensor:
    """log per(exp u) = log sum over permutations of exp(sum_i u[i, p(i)]): ``(*batch, n, n)`` to ``(*batch,)``.

    After i rows, entry S of the table is the log-sum over ways to match them with the column set S, |S| = i. Only
    sums of positive terms occur, so it is stable at any scale, unlike Ryser's alternating formula.
    """
    n = u.shape[-1]
    table = u[..., 0, :]
    for row in range(1, n):
        before, column = (index.to(u.device) for index in _predecessors(n, row + 1))
        table = (table[..., before] + u[..., row, :][..., column]).logsumexp(-1)
    return table[..., 0]


@lru_cache(maxsize=64)
def _predecessors(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each set of ``size`` columns (in combinations order): the ranks of the sets with one left out, and which."""
    rank = {s: i for i, s in enumerate(itertools.combinations(range(n), size - 1))}
    sets = list(itertools.combinations(range(n), size))
    before = [[rank[s[:j] + s[j + 1 :]] for j in range(size)] for s in sets]
    return torch.tensor(before), torch.tensor(sets)


@sst.fast_path(Matching, sst.CategoricalEntropy)
def sinkhorn(structure: Matching, regularizer: sst.CategoricalEntropy, u: torch.Tensor) -> torch.Tensor:
    return doubly_stochastic(u)
