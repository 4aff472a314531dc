"""The B-arcs of a directed acyclic hypergraph, sorted, and the order in which sweeps over it visit its vertices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from polytopes.kernels.dag_order import levels, sweep

NONE = -1  # for a tail or an item that an arc does not have


@dataclass(frozen=True)
class Arcs:
    """Arcs in the order of their heads; integer arrays ``(arcs,)``.

    An arc without a first or second tail has ``vertices`` there, one without an item has ``items``. Those into vertex v
    are ``start[v]`` up to, and without, ``start[v + 1]``.
    """

    heads: np.ndarray
    first: np.ndarray
    second: np.ndarray
    item: np.ndarray
    start: np.ndarray
    vertices: int
    items: int

    @staticmethod
    def of(heads: np.ndarray, first: np.ndarray, second: np.ndarray, item: np.ndarray, items: int) -> Arcs:
        """Of arcs in any order, with ``NONE`` where they have no tail or no item.

        Raises:
            ValueError: a tail that does not come before its head, a vertex without an arc into it, or another than
                the last that is no tail.
        """
        by_head = np.argsort(heads, kind="stable")
        heads, first, second, item = (np.asarray(a, dtype=np.int64)[by_head] for a in (heads, first, second, item))
        vertices = int(heads[-1]) + 1
        if bool((np.maximum(first, second) >= heads).any()):
            raise ValueError("vertices must be numbered so that the tails of an arc come before its head.")
        if len(np.unique(heads)) < vertices or len(np.setdiff1d(np.arange(vertices - 1), np.append(first, second))):
            raise ValueError("every vertex must be the head of an arc, and every one but the last a tail.")
        start = np.searchsorted(heads, np.arange(vertices + 1))
        first, second = (np.where(tails == NONE, vertices, tails) for tails in (first, second))
        return Arcs(heads, first, second, np.where(item == NONE, items, item), start, vertices, items)

    @property
    def count(self) -> int:
        return len(self.heads)

    def derivations(self) -> list[tuple[int, ...]]:
        """The arcs of every derivation of the last vertex."""
        found: list[list[tuple[int, ...]]] = []
        for v in range(self.vertices):
            found.append([])
            for arc in range(self.start[v], self.start[v + 1]):
                tails = [found[t] for t in (self.first[arc], self.second[arc]) if t < self.vertices]
                found[v] += [(arc, *itertools.chain(*parts)) for parts in itertools.product(*tails)]
        return found[-1]


@dataclass(frozen=True)
class Steps:
    """Groups of vertices whose sums need only those of earlier groups, about as wide each.

    A group of ``down`` is (heads ``(count,)``, and ``(width, count)`` of the arcs into each, of their first and second
    tails, and of their items); there is an arc, without tails, of item ``items + 1``, where there are fewer. One of
    ``up`` is (tails, arcs out of each, their heads).
    """

    down: list[tuple[torch.Tensor, ...]]
    up: list[tuple[torch.Tensor, ...]]

    @staticmethod
    def of(arcs: Arcs) -> Steps:
        n, m = arcs.vertices, arcs.count
        both = np.concatenate([arcs.first, arcs.second])
        edges = np.flatnonzero(both < n)
        tails, heads, carrier = both[edges], np.tile(arcs.heads, 2)[edges], np.append(edges % m, m)
        order = levels(tails, heads, n) if len(tails) else [np.arange(n)]
        arc, first, second, item = (
            torch.from_numpy(np.append(a, end))
            for a, end in ((np.arange(m), m), (arcs.first, n), (arcs.second, n), (arcs.item, arcs.items + 1))
        )
        into = sweep(np.append(arcs.first, n), np.append(arcs.heads, n), order, n).groups
        down = [(v, arc[e], first[e], second[e], item[e]) for v, e, _ in into]
        leaving = sweep(np.append(heads, n), np.append(tails, n), order[::-1], n).groups
        return Steps(down, [(v, torch.from_numpy(carrier)[e], others) for v, e, others in leaving])

    def to(self, device: torch.device) -> Steps:
        return Steps(*([tuple(x.to(device) for x in group) for group in groups] for groups in (self.down, self.up)))
