"""Spanning arborescences of a directed graph: trees in which every vertex but the root has one entering edge.

Paper, section 4.2 and appendix ("rooted, directed spanning trees"). Hull: a unit of flow from the root to every vertex,
each within the chosen edges (Maculan 1986; Martin 1991), O(n m) variables. Log-partition: the directed matrix-tree
theorem (Tutte 1948; Koo et al. 2007). Best tree: Chu and Liu, Edmonds.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.kernels.best_tree import best_tree, compiled_arborescences, hanging_edges
from polytopes.kernels.box import box_violation
from polytopes.kernels.exact_samples import sample_tree
from polytopes.kernels.log_weights import ABSENT, widened
from polytopes.kernels.tables import Table
from polytopes.kernels.tree_sum import log_tree_sum, tree_marginals
from polytopes.path import incidence
from sst_cvx import native
from sst_cvx.arguments import check_edge_index, check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
    import scipy.sparse.csgraph as csgraph
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")
    csgraph = later("scipy.sparse.csgraph")


class Arborescence(sst.Structure, final=True):
    """Spanning trees directed away from a root; an event is a 0/1 vector over the edges.

    Args:
        graph: n, for the complete directed graph on n >= 2 vertices (edges i -> j in the order of (i, j), none into a
            fixed root), or edge_index ``(2, edges)``, tails first. Edges into a fixed root are never chosen.
        root: a vertex, or None: any vertex may be the root.
        single_root: exactly one edge leaves the root (dependency parsing); only with a fixed root.

    Attributes:
        edge_index: ``(2, edges)`` in the order of the event.

    Raises:
        TypeError, ValueError: edges that repeat, loops, or no arborescence at all.
    """

    directed = True  # edge_index lists tails and heads
    known_binary = True
    argmax_on_device = True
    known_bounded = True
    prefers_active_set = True

    def __init__(self, graph: int | torch.Tensor, root: int | None = 0, single_root: bool = False):
        self.edge_index, self.n = _edges(graph, root)
        self.root = None if root is None else check_size("root", root, 0, self.n - 1)
        if single_root and root is None:
            raise ValueError("single_root needs a fixed root: without one, the root's edges are not restricted.")
        self.single_root = bool(single_root)
        # Vertices in the order of the algorithms, the root first; a free root is the only child of a virtual one.
        self._free = root is None
        order = [-1, *range(self.n)] if root is None else [root, *(v for v in range(self.n) if v != root)]
        self._place = torch.tensor([order.index(v) for v in range(self.n)])
        self._size = len(order)
        self._ends = Table(self._place[self.edge_index])
        self._places = Table(self._place[self.edge_index[0]] * self._size + self._place[self.edge_index[1]])
        self._given = Table(self.edge_index)
        self._check_reachable()
        super().__init__(event_shape=(self.edge_index.shape[1],))

    def _dense(self, u: torch.Tensor, absent: float) -> torch.Tensor:
        """Utilities as ``(*batch, size, size)``, the root first."""
        dense = u.new_full((*u.shape[:-1], self._size * self._size), absent)
        if self._free:
            dense[..., 1 : self._size] = 0.0
        dense = dense.index_copy(-1, self._places.on(u.device), u)
        return dense.reshape(*u.shape[:-1], self._size, self._size)

    def _check_reachable(self) -> None:
        tails, heads = self._ends.on(torch.device("cpu")).numpy()
        graph = sp.csr_array((np.ones(len(tails)), (tails, heads)), shape=(self._size, self._size))
        starts, shift, size = [0], 0, self._size
        if self.single_root or self._free:
            starts = list(range(1, self._size)) if self._free else sorted({int(v) for v in heads[tails == 0]})
            graph, shift, size = graph[1:, 1:], 1, self._size - 1
        reached = max(len(csgraph.breadth_first_order(graph, start - shift)[0]) for start in starts)
        if reached < size:
            where = f"vertex {self.root}" + " by a single edge" * self.single_root
            where = "any vertex" if self._free else where
            raise ValueError(f"the graph has no spanning arborescence: not all vertices can be reached from {where}.")

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.edge_index.shape[1])
        ends = self._ends.on(torch.device("cpu"))
        tails, heads = ends.numpy()
        hull: list = [x >= 0]
        edges, within = x, np.flatnonzero(heads != 0)
        if within.size < len(tails):
            hull.append(x[np.flatnonzero(heads == 0)] == 0)
        if self._free:
            starts = cp.Variable(self.n)
            edges = cp.hstack([x, starts])
            roots = torch.stack([torch.zeros(self.n, dtype=torch.long), torch.arange(1, self._size)])
            ends = torch.cat([ends, roots], 1)
            within = np.arange(ends.shape[1])
            hull += [starts >= 0, cp.sum(starts) == 1]
        elif self.single_root:
            hull.append(cp.sum(x[np.flatnonzero((tails == 0) & (heads != 0))]) == 1)
        used = ends[:, within]
        into = np.zeros((self._size, used.shape[1]))
        into[used[1].numpy(), np.arange(used.shape[1])] = 1
        chosen = edges[within]
        flows = cp.Variable((self._size - 1, used.shape[1]))
        supply = np.hstack([np.ones((self._size - 1, 1)), -np.eye(self._size - 1)])
        balance = incidence(used, self._size)
        return x, [
            *hull,
            into[1:] @ chosen == 1,
            flows >= 0,
            flows <= cp.vstack([chosen] * (self._size - 1)),
            flows @ balance.T == supply,
        ]

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        """What can be seen without the hull: entries in [0, 1], of sum n - 1, and how many edges enter each vertex."""
        tails, heads = self._given.on(x.device)
        into = x.new_zeros(len(x), self.n).index_add(1, heads, x)
        outside = box_violation(x, self.n - 1, self.n - 1)
        if self._free:
            return torch.maximum(outside, into.amax(1) - 1)
        wanted = (torch.arange(self.n, device=x.device) != self.root).to(x.dtype)
        outside = torch.maximum(outside, (into - wanted).abs().amax(1))
        if not self.single_root:
            return outside
        leaving = torch.where((tails == self.root) & (heads != self.root), x, 0.0).sum(1) - 1
        return torch.maximum(outside, leaving.abs())

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """A maximum spanning arborescence, over the whole batch at once, on the device of ``u``."""
        flat = u.reshape(-1, self.event_size)
        if native.serves(flat):
            ends, single_root = self._ends.on(u.device), self.single_root or self._free
            return compiled_arborescences(flat, ends, self._size, self._free, single_root).reshape(u.shape)
        parent = best_tree(self._dense(flat.double(), -torch.inf), self.single_root or self._free)
        return self._edges_of(parent, u).reshape(u.shape)

    def _edges_of(self, parents: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """A tree from the parents ``(*batch, size)`` of its vertices, like ``u``."""
        tails, heads = self._ends.on(u.device)
        return ((parents.index_select(-1, heads) == tails) & (heads != 0)).to(u.dtype)

    def length_mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """Mask of graphs padded to n vertices: ``(*batch,)`` integers to ``(*batch, edges)`` bool.

        True for edges between vertices before the length; the root is always there.
        """
        present = sst.length_mask(lengths, self.n)
        if self.root is not None:
            present[..., self.root] = True
        return present[..., self.edge_index].all(-2)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor:
        """An edge to every vertex that a mask leaves no edge: it is not in the graph, and the tree spans the others."""
        return hanging_edges(self._given.on(allowed.device), self.n, allowed, self.root, self.single_root)

    @constants()
    def vertices(self) -> torch.Tensor:
        tails, heads = self._ends.on(torch.device("cpu")).tolist()
        entering = [[e for e, head in enumerate(heads) if head == v] for v in range(1, self._size)]
        if self._free:  # edge -1 - v comes from the virtual root
            entering = [[*edges, -1 - v] for v, edges in enumerate(entering)]
        check_vertex_count(self, int(np.prod([float(len(edges)) for edges in entering])))
        rows = []
        for choice in itertools.product(*entering):
            parent = [0, *(tails[e] if e >= 0 else 0 for e in choice)]
            leaving = sum(p == 0 for p in parent[1:])
            if (leaving == 1 or not (self._free or self.single_root)) and _is_tree(parent):
                rows.append([e for e in choice if e >= 0])
        return torch.zeros(len(rows), len(tails), dtype=torch.float64).scatter(1, torch.tensor(rows), 1.0)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over arborescences of exp of the sum of their edges' utilities; differentiable twice."""
        return log_tree_sum(self._dense(u, ABSENT), self.single_root or self._free)

    @widened
    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-partition, of the shape of ``u``; differentiable."""
        x = tree_marginals(self._dense(u.double(), ABSENT), self.single_root or self._free)
        return x.flatten(-2).index_select(-1, self._places.on(u.device)).to(u.dtype)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A tree drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        return self._edges_of(sample_tree(self._dense(u, ABSENT), self.single_root or self._free, generator), u)

    def _key(self) -> Hashable:
        return self.n, self.root, self.single_root, *map(tuple, self.edge_index.tolist())

    def __repr__(self) -> str:
        single = ", single_root=True" if self.single_root else ""
        return f"Arborescence(n={self.n}, edges={self.edge_index.shape[1]}, root={self.root}{single})"


@sst.fast_path(Arborescence, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: Arborescence, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return structure.marginals(u)


def _edges(graph: int | torch.Tensor, root: int | None) -> tuple[torch.Tensor, int]:
    if isinstance(graph, torch.Tensor):
        edge_index, n = check_edge_index(graph)
        pairs = edge_index.T.tolist()
        if any(i == j for i, j in pairs) or len({(i, j) for i, j in pairs}) < len(pairs):
            raise ValueError("edge_index must list each directed edge once, without loops.")
        return edge_index, n
    n = check_size("graph (unless it is an edge_index tensor)", graph, 2)
    pairs = [(i, j) for i, j in itertools.permutations(range(n), 2) if j != root]
    return torch.tensor(pairs).T.contiguous(), n


def _is_tree(parent: list[int]) -> bool:
    """Whether following parents leads to 0 from everywhere."""
    for v in range(1, len(parent)):
        steps = 0
        while v and steps < len(parent):
            v, steps = parent[v], steps + 1
        if v:
            return False
    return True
