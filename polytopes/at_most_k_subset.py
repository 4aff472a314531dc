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
from polytopes.kernels.box import box_violation, within_box
from polytopes.kernels.exact_samples import sample_subset
from polytopes.kernels.log_threshold import ENTROPIES, log_threshold_up_to
from polytopes.kernels.log_weights import widened
from polytopes.kernels.sizes import REFUSAL, at_points, column, largest
from polytopes.kernels.subset_sums_up_to import log_elementary_symmetric_up_to, marginals_up_to
from polytopes.kernels.threshold import SEARCHABLE, threshold_map_up_to
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
        k: largest size of the subset, 0 <= k <= n. None: given with each call, one a row, as the hull parameter
            ``k``: ``soft(u, t, k=sizes)``, ``argmax(u, k=sizes)``, numbers or a tensor that broadcasts to the batch.
            It need not be an integer (0 <= sum x <= k), and answers of the separable regularizers are differentiable
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
        super().__init__(x, [x >= 0, x <= 1, cp.sum(x) <= cp.Parameter(name="k", nonneg=True)])

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.n)
        return x, [x >= 0, x <= 1, cp.sum(x) <= self._fixed()]

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """1 at the k largest utilities that are positive, 0 elsewhere; on the device of ``u``."""
        if self.k is None:
            return largest(self, u, parameters) * (u > 0)
        self.flat_parameters(parameters, u.shape[:-1])  # there are none
        return torch.zeros_like(u).scatter(-1, u.topk(self.k, dim=-1).indices, 1.0) * (u > 0)

    def has_vertices(self) -> bool:
        return self.k is not None

    @constants()
    def vertices(self) -> torch.Tensor:
        k = self._fixed()
        check_vertex_count(self, sum(math.comb(self.n, j) for j in range(k + 1)))
        rows = [c for j in range(k + 1) for c in itertools.combinations(range(self.n), j)]
        found = torch.zeros(len(rows), self.n, dtype=torch.float64)
        for row, chosen in zip(found, rows, strict=True):
            row[list(chosen)] = 1.0
        return found

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum of the elementary symmetric polynomials e_0, ..., e_k of exp u."""
        return log_elementary_symmetric_up_to(u, self._fixed())

    def violation(self, x: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if self.k is None:
            return box_violation(x.double(), 0, at_points(x, parameters))
        return box_violation(x.double(), 0, self.k)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x, 0, self._fixed())

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        return self.k is not None and within_box(x, 0, self.k, tolerance)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A subset drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return sample_subset(u, 0, self._fixed(), generator)

    def _fixed(self) -> int:
        if self.k is None:
            raise NotImplementedError(f"{self!r}: {REFUSAL}.")
        return self.k

    def _key(self) -> Hashable:
        return self.n, self.k

    def __repr__(self) -> str:
        return f"AtMostKSubset(n={self.n}, k={self.k})"


def slack_or_tight(
    structure: AtMostKSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor, k: torch.Tensor | None = None
) -> torch.Tensor:
    return threshold_map_up_to(u, structure._fixed() if k is None else column(k, u), regularizer)


def log_slack_or_tight(
    structure: AtMostKSubset, regularizer: sst.SeparableRegularizer, u: torch.Tensor, k: torch.Tensor | None = None
) -> torch.Tensor:
    return log_threshold_up_to(u, structure._fixed(), regularizer)


for _kind in SEARCHABLE:
    sst.fast_path(
        AtMostKSubset, _kind, supports_parameters=True, log=log_slack_or_tight if _kind in ENTROPIES else None
    )(slack_or_tight)


@sst.fast_path(AtMostKSubset, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: AtMostKSubset, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return gradient(structure.log_partition, u) if stops_early(u) else marginals_up_to(u, structure._fixed())
