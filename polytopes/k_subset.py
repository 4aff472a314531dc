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
from polytopes.kernels.sizes import REFUSAL, at_points, column, largest
from polytopes.kernels.subset_sums import log_elementary_symmetric, subset_marginals
from polytopes.kernels.threshold import SEARCHABLE, threshold_map
from polytopes.kernels.threshold_by_row import threshold_map_by_row
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
        k: size of the subset, 0 <= k <= n. None: given with each call, one a row, as the hull parameter
            ``k``: ``soft(u, t, k=sizes)``, ``argmax(u, k=sizes)``, numbers or a tensor that broadcasts to the batch.
            It need not be an integer (0 <= sum x == k), and answers of the separable regularizers are differentiable
            in it; there is then no log-partition, no sampling, no list of vertices and no mask.
    """

    known_binary = True
    known_bounded = True
    sees_hull = True  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    argmax_on_device = True

    def __init__(self, n: int, k: int | None):
        self.n = check_size("n", n, 1)
        self.k = None if k is None else check_size("k", k, 0, n)
        if k is not None:
            super().__init__(event_shape=(self.n,))
            return
        self.log_partition_refusal = REFUSAL
        x = cp.Variable(n)
        super().__init__(x, [x >= 0, x <= 1, cp.sum(x) == cp.Parameter(name="k", nonneg=True)])

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.n)
        return x, [x >= 0, x <= 1, cp.sum(x) == self._fixed()]

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """1 at the k largest utilities, 0 elsewhere (ties broken by ``torch.topk``); on the device of ``u``."""
        if self.k is None:
            return largest(self, u, parameters)
        self.flat_parameters(parameters, u.shape[:-1])  # there are none
        return torch.zeros_like(u).scatter(-1, u.topk(self.k, dim=-1).indices, 1.0)

    def has_vertices(self) -> bool:
        return self.k is not None

    @constants()
    def vertices(self) -> torch.Tensor:
        k = self._fixed()
        check_vertex_count(self, math.comb(self.n, k))
        chosen = torch.tensor(list(itertools.combinations(range(self.n), k)), dtype=torch.long)
        rows = torch.zeros(len(chosen), self.n, dtype=torch.float64)
        return rows.scatter(1, chosen, 1.0) if k else rows

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log e_k(exp u), the elementary symmetric polynomial; exact at any scale of u."""
        return log_elementary_symmetric(u, self._fixed())

    def violation(self, x: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if self.k is None:
            k = at_points(x, parameters)
            return box_violation(x.double(), k, k)
        return box_violation(x.double(), self.k, self.k)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x, self._fixed(), self._fixed())

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        return self.k is not None and within_box(x, self.k, self.k, tolerance)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A subset drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return sample_subset(u, self._fixed(), self._fixed(), generator)

    def _fixed(self) -> int:
        if self.k is None:
            raise NotImplementedError(f"{self!r}: {REFUSAL}.")
        return self.k

    def _key(self) -> Hashable:
        return self.n, self.k

    def __repr__(self) -> str:
        return f"KSubset(n={self.n}, k={self.k})"


def by_threshold(
    structure: KSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor, k: torch.Tensor | None = None
) -> torch.Tensor:
    if k is not None:
        return threshold_map_by_row(u, column(k, u), regularizer)
    return threshold_map(u, structure._fixed(), regularizer)


def log_by_threshold(
    structure: KSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor, k: torch.Tensor | None = None
) -> torch.Tensor:
    return log_threshold(u, structure._fixed(), regularizer)


for _kind in SEARCHABLE:
    sst.fast_path(KSubset, _kind, supports_parameters=True, log=log_by_threshold if _kind in ENTROPIES else None)(
        by_threshold
    )


@sst.fast_path(KSubset, sst.ExponentialFamilyEntropy)
def exponential_family(structure: KSubset, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    return subset_marginals(u, structure._fixed())
