"""Integral flows in a directed graph: X = { extreme points of { x : N x = supply, 0 <= x <= capacities } }, N the
incidence matrix (1 where an edge leaves a vertex, -1 where it enters).

That is the hull: N is totally unimodular, so extreme points are integral for integral data (Hoffman and Kruskal 1956;
Ahuja, Magnanti, Orlin, "Network Flows", theorem 11.12). Every integral flow is a mixture of extreme ones; where
capacities are 1 all are extreme.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.enumerated import Enumerated
from polytopes.kernels.feasible_flow import LARGEST, incidence, overloaded
from polytopes.kernels.integer_points import few, integer_points, refusal
from polytopes.kernels.log_weights import widened
from polytopes.kernels.whole_numbers import whole_numbers
from sst_cvx.arguments import check_edge_index, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Flow(Enumerated, final=True):
    """Flows of given supply and bounded by capacities; event shape ``(edges,)``, x[e] in 0, ..., capacities[e].

    ``argmax`` is a flow of largest utility, one of least cost if utilities are negative costs. Capacities that are
    learned, e.g. how wide to build roads::

        roads = polytopes.Flow(edge_index, supply, None)
        soft, width = sst.SoftArgmax(roads, sst.Euclidean()), torch.ones(edges, requires_grad=True)
        x = soft(-length, 0.1, capacities=width)
        (length * x).sum().backward()                     # width.grad: what a wider road saves, at most 0 here

    Args:
        edge_index: ``(2, edges)``, tails and heads of a directed graph. Cycles, parallel edges and loops are welcome.
        supply: ``(n,)``, integers of sum 0: what leaves each vertex, less what enters it; n at least the number of
            vertices in ``edge_index``.
        capacities: ``(edges,)``, integers from 0, or one for all. None: given with each call as the hull parameter
            ``capacities``, ``(*batch, edges)``, at least 0. The soft argmax is differentiable in them. They need not be
            integers, but ``argmax`` is integral only where they are; a flow must exist (SolveError otherwise). There is
            then no list of vertices and no mask.

    Attributes:
        edge_index: ``(2, edges)``, in the order of the event.

    Raises:
        TypeError, ValueError: no integers of these shapes; no flow, naming vertices whose supply cannot leave them.
    """

    directed = True  # edge_index lists tails and heads
    known_bounded = True

    @property
    def known_binary(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where no edge carries more than 1."""
        return self._capacities is not None and int(self._capacities.max()) <= 1

    def __init__(
        self,
        edge_index: torch.Tensor,
        supply: torch.Tensor | Sequence[int],
        capacities: int | torch.Tensor | Sequence[int] | None,
    ):
        self.edge_index, n = check_edge_index(edge_index)
        edges = self.edge_index.shape[1]
        self._supply = self._check_supply(supply, n)
        tails, heads = self.edge_index.numpy()
        self._incidence = incidence(tails, heads, len(self._supply))
        self._capacities = None if capacities is None else whole_numbers("capacities", capacities, edges)
        self._check_feasible()
        if self._capacities is not None:
            if not few(self._capacities):
                self.log_partition_refusal = refusal(self, "flows")
            super().__init__(event_shape=(edges,))
            return
        self.log_partition_refusal = "with capacities=None there is no log-partition, sampling or list of vertices"
        super().__init__(*self._hull(cp.Parameter(edges, name="capacities", nonneg=True)))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        return self._hull(self._most)

    def _hull(self, most: Any) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.edge_index.shape[1])
        return x, [x >= 0, x <= most, self._incidence @ x == self._supply]

    def has_vertices(self) -> bool:
        return self._capacities is not None

    @constants()
    def vertices(self) -> torch.Tensor:
        """The extreme flows: those whose edges strictly between 0 and their capacity form a forest."""
        rows, most = self._incidence.toarray(), self._most
        points = integer_points(rows, self._supply, self._supply, most, repr(self))
        free = (points > 0) & (points < most)
        check_vertex_count(self, len(points))
        ranks = [np.linalg.matrix_rank(rows * part[:, None]) for part in np.array_split(free, 1 + len(free) // 4096)]
        return torch.from_numpy(points[np.concatenate(ranks) == free.sum(1)])

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over the list of extreme flows of exp <u, x>: where the box of capacities has few points.

        Raises:
            ValueError: it has many.
        """
        return self.listed.log_partition(u)

    @property
    def _most(self) -> np.ndarray:
        if self._capacities is None:
            raise NotImplementedError(f"{self!r}: {self.log_partition_refusal}: use the structure with integers.")
        return self._capacities

    def _check_supply(self, supply: Any, n: int) -> np.ndarray:
        count = len(supply) if isinstance(supply, Sequence) or getattr(supply, "ndim", 0) == 1 else 0
        if count < n:
            raise ValueError(f"supply must be a vector of at least {n} integers, one a vertex of edge_index.")
        amounts = whole_numbers("supply", supply, count, least=None)
        if amounts.sum():
            raise ValueError(
                f"supply must sum to 0, what leaves some vertices enters others: it sums to {amounts.sum()}."
            )
        if np.abs(amounts).sum() > LARGEST:
            raise ValueError(
                f"supply is too large: absolute values must sum to at most {LARGEST}. Count in larger units."
            )
        return amounts

    def _check_feasible(self) -> None:
        most = np.full(self.edge_index.shape[1], np.inf) if self._capacities is None else self._capacities
        tails, heads = self.edge_index.numpy()
        found = overloaded(tails, heads, self._supply, most)
        if found is None:
            return
        inside = np.isin(np.arange(len(self._supply)), found[0])
        leaving = inside[tails] & ~inside[heads]
        carried = int(most[leaving].sum()) if leaving.any() else 0
        vertices = f"vertex {found[0][0]} has" if len(found[0]) == 1 else f"vertices {found[0].tolist()} together have"
        raise ValueError(
            f"there is no flow: {vertices} supply {self._supply[inside].sum()}, but the edges that leave carry "
            f"{carried} at most."
        )

    def _key(self) -> Hashable:
        most = None if self._capacities is None else tuple(self._capacities.tolist())
        return *map(tuple, self.edge_index.tolist()), tuple(self._supply.tolist()), most

    def __repr__(self) -> str:
        given = "" if self._capacities is not None else ", capacities=None"
        return f"Flow(edges={self.edge_index.shape[1]}, vertices={len(self._supply)}{given})"


@sst.fast_path(Flow, sst.ExponentialFamilyEntropy)
def exponential_family(structure: Flow, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    return structure.listed.marginals(u)
