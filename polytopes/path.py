"""Paths from source to target in a directed acyclic graph; an event is a 0/1 vector over its edges.

Hull: unit flow (balance at every vertex), integral because incidence matrices are totally unimodular. Best path, sum
over paths and exact samples are one recursion (``kernels/dag_sums.py``) in two semirings. Paper, section 4.2.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.dag_sums import PathGraph
from polytopes.kernels.log_weights import widened
from sst_cvx.arguments import check_edge_index, check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Path(sst.Structure, final=True):
    """Directed paths; event shape ``(edges,)``.

    Args:
        edge_index: ``(2, edges)``, tails and heads of a directed acyclic graph; parallel edges are welcome.
        source, target: different vertices with a path between them.

    Attributes:
        edge_index: ``(2, edges)``, in the order of the event.

    Raises:
        TypeError, ValueError: no integer tensor of this shape, a cycle, or no path.
    """

    known_binary = True
    known_bounded = True
    sees_hull = True  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    argmax_on_device = True

    @property
    def prefers_active_set(self) -> bool:
        """Measured, forward and backward at t = 1 to 0.1 and batches of 1 to 32: even at 500 edges, from 1,000 on up to
        30 times faster than a factorisation of the hull."""
        return self.edge_index.shape[1] >= 1000

    def __init__(self, edge_index: torch.Tensor, source: int, target: int):
        self.edge_index, n = check_edge_index(edge_index)
        self.source, self.target = check_size("source", source, 0, n - 1), check_size("target", target, 0, n - 1)
        if source == target:
            raise ValueError("source and target must be different vertices.")
        tails, heads = self.edge_index.numpy()
        self._graph = PathGraph(tails, heads, source, target)
        if not self._graph.reachable:
            raise ValueError(f"there is no path from {source} to {target}.")
        super().__init__(event_shape=(len(tails),))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x, n = cp.Variable(self.edge_index.shape[1]), int(self.edge_index.max()) + 1
        supply = np.zeros(n)
        supply[self.source], supply[self.target] = 1, -1
        return x, [x >= 0, incidence(self.edge_index, n) @ x == supply]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A longest path, over the whole batch at once, on the device of ``u``."""
        return self._graph.best(u)

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, self._graph.count())
        return self._graph.paths()

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over paths of exp of the sum of their edges' utilities; differentiable any number of times."""
        return self._graph.log_sum(u)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        return self.violation_by_tensors(x.double())

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(self._graph.imbalance(x), -x.amin(-1))

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A path drawn with probability proportional to exp <u, x>, exact: same shape, dtype and device as ``u``."""
        return self._graph.sample(u, generator)

    def _key(self) -> Hashable:
        return self.source, self.target, *map(tuple, self.edge_index.tolist())

    def __repr__(self) -> str:
        return f"Path(edges={self.edge_index.shape[1]}, source={self.source}, target={self.target})"


def incidence(edge_index: torch.Tensor, n: int) -> np.ndarray:
    """``(n, edges)``: 1 where an edge leaves a vertex, -1 where it enters."""
    tails, heads = edge_index.numpy()
    balance = np.zeros((n, len(tails)))
    np.add.at(balance, (tails, np.arange(len(tails))), 1)
    np.add.at(balance, (heads, np.arange(len(tails))), -1)
    return balance


@sst.fast_path(Path, sst.ExponentialFamilyEntropy)
def exponential_family(structure: Path, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor) -> torch.Tensor:
    """The gradient of ``log_partition``, by its own recursion: no autograd inside, which programs that are exported do
    not take."""
    return structure._graph.marginals(u)
