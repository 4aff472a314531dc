"""Spanning trees of a connected undirected graph; an event is a 0/1 vector over its edges.

Hull: Martin's (1991) extended formulation, O(n m) variables. For every root k the tree's edges are turned towards k:
z[k, i -> j] says that edge {i, j} is in the tree and i is nearer to k, so every other vertex has one incoming edge.

Paper, section 4.2 ("spanning trees"). The log-partition is Kirchhoff's matrix-tree theorem (``kernels/tree_sum.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.best_tree import compiled_spanning_trees, hanging_edges
from polytopes.kernels.box import box_violation
from polytopes.kernels.exact_samples import sample_tree
from polytopes.kernels.log_weights import widened
from polytopes.kernels.tables import Table
from polytopes.kernels.tree_sum import log_tree_sum, places, tree_marginals, undirected
from sst_cvx import native
from sst_cvx.arguments import check_edge_index, check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class SpanningTree(sst.Structure, final=True):
    """Trees that span a graph; event shape ``(edges,)``.

    Args:
        graph: number of vertices, at least 2, of a complete graph, whose edges are (0, 1), (0, 2), ..., (1, 2), ...; or
            ``edge_index`` (2, edges) of any connected graph without loops or parallel edges, each edge once.

    Attributes:
        edge_index: ``(2, edges)``, in the order of the event.
        n: number of vertices.

    Raises:
        TypeError, ValueError: no graph of this kind.
    """

    known_binary = True
    argmax_on_device = True
    known_bounded = True  # Martin's formulation of 100 vertices has a million variables: only on demand
    prefers_active_set = True

    def __init__(self, graph: int | torch.Tensor):
        self.edge_index, self.n = _edges(graph)
        self._ends, self._places = Table(self.edge_index), Table(places(self.edge_index, self.n))
        super().__init__(event_shape=(self.edge_index.shape[1],))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        m = self.edge_index.shape[1]
        x, (tails, heads) = cp.Variable(m), self.edge_index.tolist()
        rows: list[Any] = [x >= 0, cp.sum(x) == self.n - 1]
        z = cp.Variable((self.n, 2 * m))  # columns: tail -> head of each edge, then head -> tail
        entered = np.zeros((2 * m, self.n))
        entered[np.arange(2 * m), [*heads, *tails]] = 1
        rows += [z >= 0, z @ entered == 1 - np.eye(self.n)]
        rows += [z[k, :m] + z[k, m:] == x for k in range(self.n)]
        return x, rows

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without the hull: entries in [0, 1], of sum n - 1."""
        return box_violation(x, self.n - 1, self.n - 1)

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A maximum spanning tree by Prim's algorithm, over the whole batch at once, on the device of ``u``."""
        flat = u.reshape(-1, self.event_size)
        if native.serves(flat):
            return compiled_spanning_trees(flat, self._ends.on(u.device), self.n).reshape(u.shape)
        parent = _prim(undirected(flat, self._places.on(u.device), self.n, -torch.inf))
        return self._edges_of(parent, u).reshape(u.shape)

    def _edges_of(self, parents: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """A tree from the parents ``(*batch, n)`` of its vertices, like ``u``; that of 0 is 0."""
        tails, heads = self._ends.on(u.device)
        up, down = parents.index_select(-1, heads) == tails, parents.index_select(-1, tails) == heads
        return (up | down).to(u.dtype)

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of graphs padded to n vertices: ``(*batch,)`` integers to ``(*batch, edges)`` bool.

        True for edges between vertices before the length.
        """
        present = sst.length_mask(lengths, self.n)
        return present[..., self.edge_index].all(-2)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor:
        """An edge to every vertex that a mask leaves no edge: it is not in the graph, and the tree spans the others."""
        ends = self._ends.on(allowed.device)
        both = torch.cat([ends, ends.flip(0)], 1)
        hanging = hanging_edges(both, self.n, torch.cat([allowed, allowed], -1))
        return hanging.unflatten(-1, (2, -1)).any(-2)

    @constants()
    def vertices(self) -> torch.Tensor:
        m = len(self.edge_index[0])
        found = []
        check_vertex_count(self, round(float(self.log_partition(torch.zeros(m, dtype=torch.float64)).exp())))
        for chosen in itertools.combinations(range(m), self.n - 1):
            if _is_tree(self.n, self.edge_index[:, list(chosen)].T.tolist()):
                found.append(chosen)
        rows = torch.zeros(len(found), m, dtype=torch.float64)
        return rows.scatter(1, torch.tensor(found), 1.0)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over spanning trees of exp of the sum of their edges' utilities; differentiable twice."""
        return log_tree_sum(self._dense(u))

    @widened
    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-partition, of the shape of ``u``; differentiable."""
        x = tree_marginals(self._dense(u.double())).flatten(-2).index_select(-1, self._places.on(u.device))
        return x.unflatten(-1, (2, -1)).sum(-2).to(u.dtype)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A tree drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return self._edges_of(sample_tree(self._dense(u), False, generator), u)

    def _dense(self, u: torch.Tensor) -> torch.Tensor:
        return undirected(u, self._places.on(u.device), self.n)

    def _key(self) -> Hashable:
        return self.n, *map(tuple, self.edge_index.tolist())

    def __repr__(self) -> str:
        m = self.edge_index.shape[1]
        return f"SpanningTree({self.n})" if m == self.n * (self.n - 1) // 2 else f"SpanningTree(n={self.n}, edges={m})"


@sst.fast_path(SpanningTree, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: SpanningTree, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return structure.marginals(u)


def _prim(weight: torch.Tensor) -> torch.Tensor:
    """Parents ``(batch, n)`` in maximum spanning trees of ``(batch, n, n)`` weights, -inf where there is no edge."""
    n = weight.shape[-1]
    own = torch.arange(n, device=weight.device)
    outside, best, parent = own > 0, weight[:, 0], torch.zeros_like(weight[:, 0], dtype=torch.long)
    for _ in range(n - 1):
        new = torch.where(outside, best, -torch.inf).argmax(1, keepdim=True)
        outside = outside & (own != new)
        row = weight.gather(1, new[:, :, None].expand(-1, -1, n))[:, 0]
        closer = outside & (row > best)
        best, parent = torch.where(closer, row, best), torch.where(closer, new, parent)
    return parent


def _edges(graph: int | torch.Tensor) -> tuple[torch.Tensor, int]:
    if not isinstance(graph, torch.Tensor):
        n = check_size("graph (unless it is an edge_index tensor)", graph, 2)
        pairs = list(itertools.combinations(range(n), 2))
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T.contiguous(), n
    edge_index, n = check_edge_index(graph)
    pairs = {(min(i, j), max(i, j)) for i, j in edge_index.T.tolist()}
    if any(i == j for i, j in pairs) or len(pairs) < edge_index.shape[1]:
        raise ValueError("edge_index must list each undirected edge once, without loops, vertices from 0.")
    if not _connects(n, list(pairs)):
        raise ValueError(f"the graph does not connect its {n} vertices, so it has no spanning tree.")
    return edge_index, n


def _connects(n: int, edges: list) -> bool:
    group = list(range(n))

    def find(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, j in edges:
        group[find(i)] = find(j)
    return len({find(i) for i in range(n)}) == 1


def _is_tree(n: int, edges: list) -> bool:
    return len(edges) == n - 1 and _connects(n, edges)
