"""Subsets of the edges of a bipartite graph with a bounded number of edges at every vertex (b-matchings):
X = { x in {0, 1}^edges : at_least <= D x <= capacities }, D the incidence matrix of vertices and edges.

Hull: 0 <= x <= 1 and these rows, integral as incidence matrices of bipartite graphs are totally unimodular (Hoffman and
Kruskal 1956; Schrijver, "Combinatorial Optimization", theorem 21.2).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sst_cvx as sst
from polytopes.enumerated import Enumerated
from polytopes.kernels.feasible_flow import overloaded
from polytopes.kernels.integer_points import few, integer_points, refusal
from polytopes.kernels.log_weights import widened
from polytopes.kernels.whole_numbers import whole_numbers
from sst_cvx.arguments import check_edge_index, check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")

#: One number for all vertices; numbers of the left and of the right side, each one or a vector; or a vector of both.
Degrees = int | torch.Tensor | Sequence[Any]


class BMatching(Enumerated, final=True):
    """At most so many edges at each vertex of a bipartite graph; event shape ``(edges,)``.

    Capacities that are learned, e.g. how many papers each of 3 reviewers may get, each paper one review::

        reviews = polytopes.BMatching(edge_index, None)                    # edge_index: (reviewer, paper)
        soft, load = sst.SoftArgmax(reviews, sst.Euclidean()), torch.full((3,), 1.5, requires_grad=True)
        x = soft(u, 0.1, capacities=torch.cat([load, torch.ones(papers)]))
        x[..., 0].sum().backward()                                         # load.grad: what one more review is worth

    Args:
        edge_index: ``(2, edges)``, left and right ends. Each side is numbered from 0 by itself, as PyG does in
            bipartite graphs (so that every such tensor is a bipartite graph). Parallel edges are welcome.
        capacities: most edges at a vertex: an integer for all, a pair ``(left, right)`` of integers or vectors, or one
            vector, left vertices first. None: given with each call as the hull parameter ``capacities``,
            ``(*batch, left + right)``, at least 0. The soft argmax is differentiable in them. They need not be
            integers, but the hull has integral vertices, which ``argmax`` returns, only where they are. There is then
            no list of vertices and no mask.
        at_least: fewest edges at a vertex, in the same form; 0 by default. ``at_least=capacities``: exact degrees.
        size: numbers of left and right vertices, as PyG's ``size``; by default up to the largest in ``edge_index``.

    Attributes:
        edge_index: ``(2, edges)``, in the order of the event. size: ``(left, right)``.

    Raises:
        TypeError, ValueError: no integers of these shapes, or no such subset (naming vertices that keep it from being).
    """

    known_binary = True
    known_bounded = True

    def __init__(
        self,
        edge_index: torch.Tensor,
        capacities: Degrees | None,
        *,
        at_least: Degrees | None = None,
        size: tuple[int, int] | None = None,
    ):
        self.edge_index, _ = check_edge_index(edge_index)
        self.size = self._sides(size)
        self._degree_rows = self._degrees()
        self._capacities = None if capacities is None else self._of_vertices("capacities", capacities)
        self._at_least = self._of_vertices("at_least", 0 if at_least is None else at_least)
        self._check_feasible()
        edges = self.edge_index.shape[1]
        if not few(np.ones(edges)):
            self.log_partition_refusal = refusal(self, "b-matchings")
        if self._capacities is not None:
            super().__init__(event_shape=(edges,))
            return
        self.log_partition_refusal = "with capacities=None there is no log-partition, sampling or list of vertices"
        most = cp.Parameter(sum(self.size), name="capacities", nonneg=True)
        x = cp.Variable(edges)
        super().__init__(x, [x >= 0, x <= 1, self._degree_rows @ x <= most, *self._lower(x, self._at_least > 0)])

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x, most = cp.Variable(self.edge_index.shape[1]), self._most
        exact = (self._at_least == most) & (most > 0)
        bounded = (most < self._degree_rows.sum(axis=1)) & ~exact
        hull = [x >= 0, x <= 1, *self._lower(x, (self._at_least > 0) & ~exact)]
        if exact.any():
            hull.append(self._degree_rows[np.flatnonzero(exact)] @ x == most[exact])
        if bounded.any():
            hull.append(self._degree_rows[np.flatnonzero(bounded)] @ x <= most[bounded])
        return x, hull

    def _lower(self, x: Any, where: np.ndarray) -> list[Any]:
        rows = np.flatnonzero(where)
        return [self._degree_rows[rows] @ x >= self._at_least[rows]] if rows.size else []

    def has_vertices(self) -> bool:
        return self._capacities is not None

    @constants()
    def vertices(self) -> torch.Tensor:
        rows, ones = self._degree_rows.toarray(), np.ones(self.edge_index.shape[1])
        points = integer_points(rows, self._at_least, self._most, ones, repr(self))
        check_vertex_count(self, len(points))
        return torch.from_numpy(points)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log of the sum over the list of b-matchings of exp <u, x>: up to 12 edges.

        Raises:
            ValueError: more.
        """
        return self.listed.log_partition(u)

    def length_mask(self, left: torch.Tensor, right: torch.Tensor | None = None) -> torch.Tensor:
        """Mask of padded sides: numbers of left and of right vertices (by default as many) ``(*batch,)`` to
        ``(*batch, edges)`` bool, True where both ends are before them.

        Raises:
            ValueError: ``at_least`` is not 0: vertices that are not there would still need edges.
        """
        if self._at_least.any():
            raise ValueError("length_mask needs at_least=None: vertices that are padding would still need edges.")
        beside = sst.length_mask(left if right is None else right, self.size[1])
        there = [
            side[..., ends.to(side.device)]
            for side, ends in zip((sst.length_mask(left, self.size[0]), beside), self.edge_index, strict=True)
        ]
        return there[0] & there[1]

    @property
    def _most(self) -> np.ndarray:
        if self._capacities is None:
            raise NotImplementedError(f"{self!r}: {self.log_partition_refusal}: use the structure with integers.")
        return self._capacities

    def _sides(self, size: Any) -> tuple[int, int]:
        n, m = (int(ends.max()) + 1 for ends in self.edge_index)
        if size is None:
            return n, m
        if not isinstance(size, Sequence) or len(size) != 2:
            raise TypeError(f"size must be a pair of integers, numbers of left and right vertices, got {size!r}.")
        return check_size("size[0]", size[0], n), check_size("size[1]", size[1], m)

    def _degrees(self) -> Any:
        """``(left + right, edges)``, sparse: 1 where an edge ends at a vertex."""
        edges = self.edge_index.shape[1]
        left, right = self.edge_index.numpy()
        places = np.concatenate([left, self.size[0] + right]), np.tile(np.arange(edges), 2)
        return sp.csr_array(sp.coo_array((np.ones(2 * edges), places), shape=(sum(self.size), edges)))

    def _of_vertices(self, name: str, value: Degrees) -> np.ndarray:
        """``(left + right,)``, int64."""
        if isinstance(value, (tuple, list)) and len(value) == 2:
            parts = zip(("left", "right"), value, self.size, strict=True)
            return np.concatenate([whole_numbers(f"{name} ({side})", part, count) for side, part, count in parts])
        n, m = self.size
        what = f" ({n} left, then {m} right vertices, each side numbered from 0; see size=)"
        return whole_numbers(name, value, n + m, what=what)

    def _check_feasible(self) -> None:
        """Raise ValueError where lower bounds cannot be met."""
        need, degrees = self._at_least, self._degree_rows.sum(axis=1)
        if not need.any():
            return
        most = degrees if self._capacities is None else np.minimum(self._capacities, degrees)
        short = np.flatnonzero(need > most)
        if short.size:
            v = int(short[0])
            raise ValueError(
                f"at_least is {need[v]} at {self._named(short[:1])}, but it may have {int(most[v])} edges at most."
            )
        # Flow from left to right that carries what is needed from a hub and back to it: need <= flow <= most.
        n, hub = self.size[0], sum(self.size)
        left, right = np.arange(n), np.arange(n, hub)
        tails = np.concatenate([self.edge_index[0].numpy(), np.full(n, hub), right])
        heads = np.concatenate([n + self.edge_index[1].numpy(), left, np.full(hub - n, hub)])
        supply = np.concatenate([need[:n], -need[n:], [need[n:].sum() - need[:n].sum()]])
        room = np.concatenate([np.ones(self.edge_index.shape[1]), (most - need)])
        found = overloaded(tails, heads, supply, room)
        if found is not None:
            among = self._named(found[0][found[0] < hub])
            raise ValueError(f"at_least cannot be met: {found[1]} edges are lacking (see {among}).")

    def _named(self, vertices: np.ndarray) -> str:
        left, right = vertices[vertices < self.size[0]], vertices[vertices >= self.size[0]] - self.size[0]
        parts = [
            f"{side} {'vertex' if len(v) == 1 else 'vertices'} {', '.join(map(str, v))}"
            for side, v in (("left", left), ("right", right))
            if len(v)
        ]
        return " and ".join(parts) or "all vertices"

    def _key(self) -> Hashable:
        most = None if self._capacities is None else tuple(self._capacities.tolist())
        return self.size, *map(tuple, self.edge_index.tolist()), most, tuple(self._at_least.tolist())

    def __repr__(self) -> str:
        given = "" if self._capacities is not None else ", capacities=None"
        return f"BMatching(edges={self.edge_index.shape[1]}, size={self.size}{given})"


@sst.fast_path(BMatching, sst.ExponentialFamilyEntropy)
def exponential_family(
    structure: BMatching, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return structure.listed.marginals(u)
