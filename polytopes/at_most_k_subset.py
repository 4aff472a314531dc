"""Subsets of at most k items: X = { x in {0, 1}^n : sum x <= k }, conv(X) = { 0 <= x <= 1, sum x <= k }.

Every separable relaxation is that of the box where its sum is at most k, and else that of the k-subset: the row is
either slack or tight. The exponential family adds the elementary symmetric polynomials up to k.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

import sst_cvx as sst
from polytopes.hypercube import coordinatewise
from polytopes.kernels.box import box_violation, within_box
from polytopes.kernels.exact_samples import sample_subset
from polytopes.kernels.log_threshold import ENTROPIES, log_threshold_up_to
from polytopes.kernels.log_weights import widened
from polytopes.kernels.subset_sums_up_to import log_elementary_symmetric_up_to, marginals_up_to
from polytopes.kernels.threshold import SEARCHABLE, threshold_map
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.autodiff import gradient
from sst_cvx.host import stops_early
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class AtMostKSubset(sst.Structure, final=True):
    """At most k of n items; event shape ``(n,)``.

    Args:
        n: number of items, at least 1.
        k: largest size of the subset, 0 <= k <= n.
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
        return x, [x >= 0, x <= 1, cp.sum(x) <= self.k]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """1 at the k largest utilities that are positive, 0 elsewhere; on the device of ``u``."""
        return torch.zeros_like(u).scatter(-1, u.topk(self.k, dim=-1).indices, 1.0) * (u > 0)

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, sum(math.comb(self.n, j) for j in range(self.k + 1)))
        rows = [c for j in range(self.k + 1) for c in itertools.combinations(range(self.n), j)]
        found = torch.zeros(len(rows), self.n, dtype=torch.float64)
        for row, chosen in zip(found, rows, strict=True):
            row[list(chosen)] = 1.0
        return found

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum of the elementary symmetric polynomials e_0, ..., e_k of exp u."""
        return log_elementary_symmetric_up_to(u, self.k)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x.double(), 0, self.k)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x, 0, self.k)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        return within_box(x, 0, self.k, tolerance)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A subset drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return sample_subset(u, 0, self.k, generator)

    def _key(self) -> Hashable:
        return self.n, self.k

    def __repr__(self) -> str:
        return f"AtMostKSubset(n={self.n}, k={self.k})"


def slack_or_tight(structure: AtMostKSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor) -> torch.Tensor:
    """The box's solution, or the k-subset's where that is too large."""
    box = coordinatewise(structure, regularizer, u)
    tight = box.detach().sum(-1, keepdim=True) > structure.k
    return torch.where(tight, threshold_map(u, structure.k, regularizer), box)


def log_slack_or_tight(
    structure: AtMostKSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor
) -> torch.Tensor:
    return log_threshold_up_to(u, structure.k, regularizer)


for _kind in SEARCHABLE:
    sst.fast_path(AtMostKSubset, _kind, log=log_slack_or_tight if _kind in ENTROPIES else None)(slack_or_tight)


@sst.fast_path(AtMostKSubset, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: AtMostKSubset, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return gradient(structure.log_partition, u) if stops_early(u) else marginals_up_to(u, structure.k)
