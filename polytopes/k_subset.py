"""Subsets of size k: X = { x in {0, 1}^n : sum x = k }, conv(X) the hypersimplex { 0 <= x <= 1, sum x = k }.

Paper, section 4.1 ("k-subsets"). Binary entropy: the limited multi-label projection (Amos, Koltun, Kolter 2019).
All separable regularizers go by one threshold search; the exponential family by elementary symmetric polynomials.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation, within_box
from polytopes.kernels.exact_samples import sample_subset
from polytopes.kernels.log_threshold import ENTROPIES, log_threshold
from polytopes.kernels.log_weights import widened
from polytopes.kernels.subset_sums import log_elementary_symmetric, subset_marginals
from polytopes.kernels.threshold import SEARCHABLE, threshold_map
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class KSubset(sst.Structure, final=True):
    """k of n items; event shape ``(n,)``.

    Args:
        n: number of items, at least 1.
        k: size of the subset, 0 <= k <= n.
    """

    known_binary = True
    known_bounded = True
    sees_hull = True  # pyright: ignore[reportIncompatibleVariableOverride]
    argmax_on_device = True

    def __init__(self, n: int, k: int):
        self.n, self.k = check_size("n", n, 1), check_size("k", k, 0, n)
        super().__init__(event_shape=(self.n,))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.n)
        return x, [x >= 0, x <= 1, cp.sum(x) == self.k]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """1 at the k largest utilities, 0 elsewhere (ties broken by ``torch.topk``); on the device of ``u``."""
        return torch.zeros_like(u).scatter(-1, u.topk(self.k, dim=-1).indices, 1.0)

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, math.comb(self.n, self.k))
        chosen = torch.tensor(list(itertools.combinations(range(self.n), self.k)), dtype=torch.long)
        rows = torch.zeros(len(chosen), self.n, dtype=torch.float64)
        return rows.scatter(1, chosen, 1.0) if self.k else rows

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log e_k(exp u), the elementary symmetric polynomial; exact at any scale of u."""
        return log_elementary_symmetric(u, self.k)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x.double(), self.k, self.k)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x, self.k, self.k)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        return within_box(x, self.k, self.k, tolerance)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A subset drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return sample_subset(u, self.k, self.k, generator)

    def _key(self) -> Hashable:
        return self.n, self.k

    def __repr__(self) -> str:
        return f"KSubset(n={self.n}, k={self.k})"


def by_threshold(structure: KSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor) -> torch.Tensor:
    return threshold_map(u, structure.k, regularizer)


def log_by_threshold(structure: KSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor) -> torch.Tensor:
    return log_threshold(u, structure.k, regularizer)


for _kind in SEARCHABLE:
    sst.fast_path(KSubset, _kind, log=log_by_threshold if _kind in ENTROPIES else None)(by_threshold)


@sst.fast_path(KSubset, sst.ExponentialFamilyEntropy)
def exponential_family(structure: KSubset, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    return subset_marginals(u, structure.k)
