"""Kinds of matroids of which more than ranks is known: the log-partition at any size, the hull where it is small."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch

from polytopes.kernels.subset_sums import log_elementary_symmetric, subset_marginals
from polytopes.kernels.tables import Table
from polytopes.kernels.tree_sum import log_tree_sum, places, tree_marginals, undirected
from sst_cvx.host import stops_early


class Family(ABC):
    """A kind of matroid of which more than ranks is known.

    Attributes:
        name: as it is asked for, with its arguments.
        key: hashable; equal ones are the same matroid.
        has_hull: whether ``hull`` tells constraints at any size.
    """

    name: str
    key: Hashable
    has_hull = False

    @abstractmethod
    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        """Of sets ``(*batch, n)``."""

    @abstractmethod
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """Of any size."""

    @abstractmethod
    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Its gradient."""

    def hull(self, x: Any) -> list[Any] | None:
        """Constraints on the event, where there are few."""
        return None


class Partition(Family):
    """As many elements of each group as it has room for."""

    has_hull = True

    def __init__(self, groups: torch.Tensor, capacities: list[int], name: str):
        self._member = groups == torch.arange(len(capacities))[:, None]
        self._limits = torch.minimum(torch.tensor(capacities), self._member.sum(1))
        found = [torch.nonzero(m).flatten() for m in self._member]
        self._places = [(Table(i), k) for i, k in zip(found, self._limits.tolist(), strict=True) if len(i)]
        self._order = Table(torch.cat(found).argsort())
        self._columns, self._most = Table(self._member.T.double()), Table(self._limits)
        self.name, self.key = name, (tuple(groups.tolist()), tuple(self._limits.tolist()))

    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        counts = sets.double() @ self._columns.on(sets.device)
        return torch.minimum(counts, self._most.on(sets.device)).sum(-1).round().long()

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        wide = u.double()  # groups may cancel
        return torch.stack([log_elementary_symmetric(part, k) for part, k in self._parts(wide)]).sum(0).to(u.dtype)

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        together = torch.cat([subset_marginals(part, k) for part, k in self._parts(u)], -1)
        return together.index_select(-1, self._order.on(u.device))

    def _parts(self, u: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
        """Utilities of each group, and how many of them are in a basis."""
        return [(u.index_select(-1, i.on(u.device)), k) for i, k in self._places]

    def hull(self, x: Any) -> list[Any]:
        return [x >= 0, x <= 1, self._member.double().numpy() @ x == self._limits.numpy()]


class Graphic(Family):
    """Spanning forests of a graph."""

    def __init__(self, edge_index: torch.Tensor, vertices: int):
        self._edges, self._vertices = Table(edge_index), vertices
        self.name = f"graphic({vertices} vertices, {edge_index.shape[1]} edges)"
        self.key = vertices, *map(tuple, edge_index.tolist())
        self._whole = self._labels(torch.ones(edge_index.shape[1]) > 0)
        self._trees = [tree for label in self._whole.unique() if (tree := self._tree(label, edge_index)) is not None]
        self._order = Table(self._places_in_bundles())

    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        """Number of vertices less that of components."""
        labels = self._labels(sets)
        roots = labels == torch.arange(self._vertices, device=sets.device)
        return self._vertices - roots.sum(-1)

    def _labels(self, sets: torch.Tensor) -> torch.Tensor:
        """The smallest vertex of the component that each vertex ``(*batch, vertices)`` is in."""
        tails, heads = self._edges.on(sets.device)
        labels = torch.arange(self._vertices, device=sets.device).expand(*sets.shape[:-1], -1)
        ends = torch.cat([tails, heads]).expand(*sets.shape[:-1], -1)
        may_stop = stops_early(sets)
        for _ in range(self._vertices):  # within reach of its least vertex; and one more, to see that nothing changes
            a, b = labels[..., tails], labels[..., heads]
            low = torch.where(sets, torch.minimum(a, b), self._vertices)
            new = labels.scatter_reduce(-1, ends, torch.cat([low, low], -1), "amin")
            new = new.gather(-1, new)  # a label's own label: long paths halve
            if may_stop and torch.equal(new, labels):
                break
            labels = new
        return labels

    def _tree(self, label: torch.Tensor, edge_index: torch.Tensor) -> _Component | None:
        """The component of a vertex, or None if it is alone."""
        inside = self._whole == label
        number = inside.long().cumsum(0) - 1
        bundles: dict[tuple[int, int], list[int]] = {}
        for e, (i, j) in enumerate(edge_index.T.tolist()):
            if inside[i] and i != j:
                bundles.setdefault((int(number[min(i, j)]), int(number[max(i, j)])), []).append(e)
        if not bundles:
            return None
        most = max(len(b) for b in bundles.values())
        padded = torch.tensor([b + [-1] * (most - len(b)) for b in bundles.values()])
        vertices = int(inside.sum())
        return _Component(vertices, Table(places(torch.tensor(list(bundles)).T, vertices)), Table(padded))

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """Sum over components; parallel edges count as one, with the log-sum-exp of their utilities."""
        wide = u.double()  # what parallel edges are worth together has more digits than float32
        total = (wide * 0).sum(-1)
        for tree in self._trees:
            total = total + log_tree_sum(tree.weights(tree.bundled(wide).logsumexp(-1)))
        return total.to(u.dtype)

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        wide = u.double()
        found = [wide[..., :1] * 0]  # of loops
        for tree in self._trees:
            bundles = tree.bundled(wide)
            x = tree_marginals(tree.weights(bundles.logsumexp(-1))).flatten(-2)
            x = x.index_select(-1, tree.places.on(u.device)).unflatten(-1, (2, -1)).sum(-2)
            found.append((x[..., None] * bundles.softmax(-1)).flatten(-2))
        return torch.cat(found, -1).index_select(-1, self._order.on(u.device)).to(u.dtype)

    def _places_in_bundles(self) -> torch.Tensor:
        """Of every edge in what ``marginals`` puts together."""
        place, start = torch.zeros(self._edges.on(torch.device("cpu")).shape[1], dtype=torch.long), 1
        for tree in self._trees:
            members = tree.parallels.on(torch.device("cpu")).flatten()
            real = members >= 0
            place[members[real]] = start + torch.nonzero(real).flatten()
            start += len(members)
        return place


@dataclass(frozen=True)
class _Component:
    """One component of a graph with more than a vertex, its parallel edges as one.

    Attributes:
        vertices: their number.
        places: of edges in the matrix of weights, as by ``places``.
        parallels: the parallel edges ``(edges, most parallels)`` that make up each, padded by -1.
    """

    vertices: int
    places: Table
    parallels: Table

    def bundled(self, u: torch.Tensor) -> torch.Tensor:
        """Utilities ``(*batch, edges, most parallels)``, padded by -inf."""
        members = self.parallels.on(u.device)
        each = u.index_select(-1, members.clamp(min=0).flatten()).unflatten(-1, members.shape)
        return torch.where(members >= 0, each, -torch.inf)

    def weights(self, u: torch.Tensor) -> torch.Tensor:
        return undirected(u, self.places.on(u.device), self.vertices)
