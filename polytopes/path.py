"""Paths from source to target in a directed acyclic graph; an event is a 0/1 vector over its edges.

Hull: unit flow (balance at every vertex), integral because incidence matrices are totally unimodular. The sum over
paths and the best path are one recursion over vertices in topological order, in two semirings: (log-sum-exp, +) and
(max, +). Paper, section 4.2 (unit flow).
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter

import cvxpy as cp
import numpy as np
import torch

import sst_cvx as sst
from sst_cvx.validation import check_finite, check_size, check_utilities, check_vertex_count


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

    def __init__(self, edge_index: torch.Tensor, source: int, target: int):
        if not isinstance(edge_index, torch.Tensor) or edge_index.is_floating_point():
            raise TypeError("edge_index must be an integer tensor (2, edges).")
        if edge_index.dim() != 2 or edge_index.shape[0] != 2 or not edge_index.numel() or int(edge_index.min()) < 0:
            raise ValueError(f"edge_index must be (2, edges) with vertices from 0, got {tuple(edge_index.shape)}.")
        self.edge_index = edge_index.detach().to("cpu", torch.long)
        n = int(self.edge_index.max()) + 1
        self.source, self.target = check_size("source", source, 0, n - 1), check_size("target", target, 0, n - 1)
        if source == target:
            raise ValueError("source and target must be different vertices.")
        self._incoming = _topological(self.edge_index.T.tolist(), n, source, target)
        balance = np.zeros((n, self.edge_index.shape[1]))
        np.add.at(balance, (self.edge_index[0].numpy(), np.arange(balance.shape[1])), 1)
        np.add.at(balance, (self.edge_index[1].numpy(), np.arange(balance.shape[1])), -1)
        supply = np.zeros(n)
        supply[source], supply[target] = 1, -1
        x = cp.Variable(balance.shape[1])
        super().__init__(x, [x >= 0, balance @ x == supply])

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A longest path, traced back over the whole batch at once, on the device of ``u``."""
        batch_shape = check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        flat = u.detach().reshape(batch_shape.numel(), -1)
        chosen: dict[int, torch.Tensor] = {}

        def best(scores: torch.Tensor, vertex: int) -> torch.Tensor:
            value, chosen[vertex] = scores.max(-1)
            return value

        self._recursion(flat, best)
        x, here = torch.zeros_like(flat), torch.full((len(flat),), self.target, device=u.device)
        tails = self.edge_index[0].to(u.device)
        for vertex, edges in reversed(self._incoming):
            edge = torch.tensor(edges, device=u.device)[chosen[vertex]]
            at = here == vertex
            x[at, edge[at]] = 1.0
            here = torch.where(at, tails[edge], here)
        return x.reshape(u.shape)

    def vertices(self) -> torch.Tensor:
        count = self.log_partition(torch.zeros(self.event_shape, dtype=torch.float64)).exp()
        check_vertex_count(self, round(float(count)))
        paths: dict[int, list[tuple[int, ...]]] = {self.source: [()]}
        tails = self.edge_index[0].tolist()
        for vertex, edges in self._incoming:
            paths[vertex] = [(*path, e) for e in edges for path in paths[tails[e]]]
        rows = torch.zeros(len(paths[self.target]), *self.event_shape, dtype=torch.float64)
        for row, path in zip(rows, paths[self.target], strict=True):
            row[list(path)] = 1.0
        return rows

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over paths of exp of the sum of their edges' utilities; differentiable by autograd, twice."""
        return self._recursion(u, lambda scores, vertex: scores.logsumexp(-1))

    def _recursion(self, u: torch.Tensor, combine: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
        """Values of the target: those of a vertex combine, over its incoming edges, tail's value plus utility."""
        tails = self.edge_index[0].tolist()
        values = {self.source: torch.zeros_like(u[..., 0])}
        for vertex, edges in self._incoming:
            before = torch.stack([values[tails[e]] for e in edges], -1)
            values[vertex] = combine(before + u[..., edges], vertex)
        return values[self.target]

    def __repr__(self) -> str:
        return f"Path(edges={self.edge_index.shape[1]}, source={self.source}, target={self.target})"


def _topological(edges: list[list[int]], n: int, source: int, target: int) -> list[tuple[int, list[int]]]:
    """(vertex, incoming edges) in topological order, for vertices and edges on some path from source to target."""
    incoming: list[list[int]] = [[] for _ in range(n)]
    for e, (_, head) in enumerate(edges):
        incoming[head].append(e)
    try:
        order = list(TopologicalSorter({v: [edges[e][0] for e in incoming[v]] for v in range(n)}).static_order())
    except CycleError:
        raise ValueError("the graph has a directed cycle: paths need an acyclic graph.") from None
    reached, useful = {source}, {target}
    for vertex in order:
        if any(edges[e][0] in reached for e in incoming[vertex]):
            reached.add(vertex)
    for vertex in reversed(order):
        if vertex in useful:
            useful |= {edges[e][0] for e in incoming[vertex]}
    on = reached & useful
    if target not in reached:
        raise ValueError(f"there is no path from {source} to {target}.")
    return [(v, [e for e in incoming[v] if edges[e][0] in on]) for v in order if v in on and v != source]
