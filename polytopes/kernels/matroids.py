"""Kinds of matroids of which more than ranks is known: the log-partition at any size, the hull where it is small."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

import torch

from polytopes.kernels.subset_sums import log_elementary_symmetric
from polytopes.kernels.tree_sum import log_tree_sum, undirected


class Family(ABC):
    """A kind of matroid of which more than ranks is known.

    Attributes:
        name: as it is asked for, with its arguments.
        key: hashable; equal ones are the same matroid.
    """

    name: str
    key: Hashable

    @abstractmethod
    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        """Of sets ``(*batch, n)``."""

    @abstractmethod
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """Of any size."""

    def hull(self, x: Any) -> list[Any] | None:
        """Constraints on the event, where there are few."""
        return None


class Partition(Family):
    """As many elements of each group as it has room for."""

    def __init__(self, groups: torch.Tensor, capacities: list[int], name: str):
        self._member = groups == torch.arange(len(capacities))[:, None]
        self._limits = torch.minimum(torch.tensor(capacities), self._member.sum(1))
        self._places = [torch.nonzero(m).flatten() for m in self._member]
        self.name, self.key = name, (tuple(groups.tolist()), tuple(self._limits.tolist()))

    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        counts = sets.double() @ self._member.T.to(sets.device, torch.float64)
        return torch.minimum(counts, self._limits.to(sets.device)).sum(-1).round().long()

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        groups = zip(self._places, self._limits.tolist(), strict=True)
        return torch.stack([log_elementary_symmetric(u[..., i.to(u.device)], k) for i, k in groups if len(i)]).sum(0)

    def hull(self, x: Any) -> list[Any]:
        return [x >= 0, x <= 1, self._member.double().numpy() @ x == self._limits.numpy()]


class Graphic(Family):
    """Spanning forests of a graph."""

    def __init__(self, edge_index: torch.Tensor, vertices: int):
        self._edges, self._vertices = edge_index, vertices
        self.name = f"graphic({vertices} vertices, {edge_index.shape[1]} edges)"
        self.key = vertices, *map(tuple, edge_index.tolist())
        self._whole = self._labels(torch.ones(edge_index.shape[1]) > 0)
        self._trees = [tree for label in self._whole.unique() if (tree := self._tree(label)) is not None]

    def rank(self, sets: torch.Tensor) -> torch.Tensor:
        """Number of vertices less that of components."""
        labels = self._labels(sets)
        roots = labels == torch.arange(self._vertices, device=sets.device)
        return self._vertices - roots.sum(-1)

    def _labels(self, sets: torch.Tensor) -> torch.Tensor:
        """The smallest vertex of the component that each vertex ``(*batch, vertices)`` is in."""
        tails, heads = self._edges.to(sets.device)
        labels = torch.arange(self._vertices, device=sets.device).expand(*sets.shape[:-1], -1)
        ends = torch.cat([tails, heads]).expand(*sets.shape[:-1], -1)
        while True:
            a, b = labels[..., tails], labels[..., heads]
            low = torch.where(sets, torch.minimum(a, b), self._vertices)
            new = labels.scatter_reduce(-1, ends, torch.cat([low, low], -1), "amin")
            new = new.gather(-1, new)  # a label's own label: long paths halve
            if torch.equal(new, labels):
                return labels
            labels = new

    def _tree(self, label: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor] | None:
        """Of one component: the number of its vertices, edges ``(2, edges)`` between them, and the parallel edges
        ``(edges, most parallels)`` that make up each, padded by -1; None for a single vertex."""
        inside = self._whole == label
        number = inside.long().cumsum(0) - 1
        bundles: dict[tuple[int, int], list[int]] = {}
        for e, (i, j) in enumerate(self._edges.T.tolist()):
            if inside[i] and i != j:
                bundles.setdefault((int(number[min(i, j)]), int(number[max(i, j)])), []).append(e)
        if not bundles:
            return None
        most = max(len(b) for b in bundles.values())
        padded = torch.tensor([b + [-1] * (most - len(b)) for b in bundles.values()])
        return int(inside.sum()), torch.tensor(list(bundles)).T.contiguous(), padded

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """Sum over components; parallel edges count as one, with the log-sum-exp of their utilities."""
        wide = u.double()  # what parallel edges are worth together has more digits than float32
        total = (wide * 0).sum(-1)
        for vertices, edges, parallels in self._trees:
            members = parallels.to(u.device)
            merged = torch.where(members >= 0, wide[..., members], -torch.inf).logsumexp(-1)
            total = total + log_tree_sum(undirected(merged, edges, vertices)[0])
        return total.to(u.dtype)
