"""The order in which sweeps over a directed acyclic graph visit its vertices: one by one, or whole levels at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.sparse as sp
    import scipy.sparse.csgraph as csgraph
else:
    sp = later("scipy.sparse")
    csgraph = later("scipy.sparse.csgraph")


@dataclass(frozen=True)
class Nodes:
    """Vertices between source and target in topological order, with the edges into each; int64 arrays.

    Node i is vertex ``order[i]``, entered by ``edges[start[i]:start[i + 1]]``, ascending, from ``tails`` there. The
    source, which nothing enters, is none of them.
    """

    order: np.ndarray
    start: np.ndarray
    edges: np.ndarray
    tails: np.ndarray

    @staticmethod
    def of(tails: np.ndarray, heads: np.ndarray, live: np.ndarray, place: np.ndarray) -> Nodes:
        """Of the live edges, vertices being in the order of their places."""
        edges = np.flatnonzero(live)
        edges = edges[np.argsort(place[heads[edges]], kind="stable")]
        ends = heads[edges]
        start = np.flatnonzero(np.diff(ends, prepend=-1))
        return Nodes(ends[start], np.append(start, len(edges)), edges, np.ascontiguousarray(tails[edges]))

    @cached_property
    def widest(self) -> int:
        """Most edges into one node."""
        return int(np.diff(self.start).max(initial=1))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.order, self.start, self.edges, self.tails


@dataclass(frozen=True)
class Sweep:
    """Groups of vertices in an order in which each group needs only earlier ones.

    A group is (vertices, edges, others): ``(count,)``, and ``(width, count)`` of the edges that feed a vertex and of
    their other ends, padded by the number of edges and of vertices.
    """

    groups: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    def to(self, device: torch.device) -> Sweep:
        return Sweep([tuple(part.to(device) for part in group) for group in self.groups])  # pyright: ignore


def matrix(tails: np.ndarray, heads: np.ndarray, vertices: int) -> Any:
    """The adjacency matrix."""
    return sp.csr_array((np.ones(len(tails)), (tails, heads)), shape=(vertices, vertices))


def topological(tails: np.ndarray, heads: np.ndarray, vertices: int) -> np.ndarray:
    """Places of the vertices, such that every edge goes to a later one.

    Raises:
        ValueError: a directed cycle.
    """
    graph = matrix(tails, heads, vertices)
    count, place = csgraph.connected_components(graph, directed=True, connection="strong")
    if count < vertices or bool((tails == heads).any()):
        raise ValueError("the graph has a directed cycle: paths need an acyclic graph.")
    place = place if place[tails[0]] < place[heads[0]] else count - 1 - place
    if bool((place[tails] < place[heads]).all()):  # components found by depth first come so, but SciPy promises nothing
        return place
    place[np.concatenate(levels(tails, heads, vertices))] = np.arange(vertices)
    return place


def closure(tails: np.ndarray, heads: np.ndarray, start: int, vertices: int) -> np.ndarray:
    """Which vertices are reached from ``start``."""
    reached = np.zeros(vertices, dtype=bool)
    graph = matrix(tails, heads, vertices)
    reached[csgraph.breadth_first_order(graph, start, directed=True, return_predecessors=False)] = True
    return reached


def levels(tails: np.ndarray, heads: np.ndarray, vertices: int) -> list[np.ndarray]:
    """Vertices of an acyclic graph by the number of edges of the longest way to them."""
    by_tail, first = _grouped(tails, vertices)
    waiting = np.bincount(heads, minlength=vertices)
    ready, found = np.flatnonzero(waiting == 0), []
    while len(ready):
        found.append(ready)
        ends, counts = np.unique(heads[by_tail[_ranges(first[ready], first[ready + 1])]], return_counts=True)
        waiting[ends] -= counts
        ready = ends[waiting[ends] == 0]
    return found


def incoming(heads: np.ndarray, vertices: int) -> np.ndarray:
    """Edges into each vertex, ``(largest number, vertices)``, padded by the last edge."""
    by_head, first = _grouped(heads, vertices)
    slot = np.arange(max(1, np.diff(first).max()))[:, None]
    return np.where(slot < np.diff(first), by_head[np.minimum(first[:-1] + slot, len(heads) - 1)], len(heads) - 1)


def sweep(tails: np.ndarray, heads: np.ndarray, levels: list[np.ndarray], vertices: int) -> Sweep:
    """Groups of one level and of about as many incoming edges; dead edges, and the last one, are at ``vertices``."""
    by_head, first = _grouped(heads, vertices)
    degree = np.diff(first)
    groups = []
    for level in levels:
        level = level[degree[level] > 0]
        width = np.ceil(np.log2(np.maximum(degree[level], 2))).astype(int)
        for size in np.unique(width):
            members = level[width == size]
            slot = np.arange(degree[members].max())[:, None]
            places = np.minimum(first[members] + slot, len(heads) - 1)
            edges = np.where(slot < degree[members], by_head[places], len(heads) - 1)
            groups.append(tuple(torch.from_numpy(a) for a in (members, edges, tails[edges])))
    return Sweep(groups)


def _grouped(ends: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges by their end, and where those of each vertex begin."""
    by_end = np.argsort(ends, kind="stable")
    return by_end, np.searchsorted(ends[by_end], np.arange(vertices + 1))


def _ranges(first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """All numbers from each first up to, and without, its end."""
    sizes = end - first
    return np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)
