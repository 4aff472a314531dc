"""The order in which sweeps over a directed acyclic graph visit its vertices: whole levels at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sweep:
    """Groups of vertices in an order in which each group needs only earlier ones.

    A group is (vertices, edges, others): ``(count,)``, and ``(width, count)`` of the edges that feed a vertex and of
    their other ends, padded by the number of edges and of vertices.
    """

    groups: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    def to(self, device: torch.device) -> Sweep:
        return Sweep([tuple(part.to(device) for part in group) for group in self.groups])  # pyright: ignore


def levels(tails: np.ndarray, heads: np.ndarray, vertices: int) -> list[np.ndarray]:
    """Vertices by the number of edges of the longest way to them."""
    by_tail = np.argsort(tails, kind="stable")
    first = np.searchsorted(tails[by_tail], np.arange(vertices + 1))
    waiting = np.bincount(heads, minlength=vertices)
    ready, levels, seen = np.flatnonzero(waiting == 0), [], 0
    while len(ready):
        levels.append(ready)
        seen += len(ready)
        out = np.concatenate([by_tail[first[v] : first[v + 1]] for v in ready])
        np.subtract.at(waiting, heads[out], 1)
        candidates = np.unique(heads[out])
        ready = candidates[waiting[candidates] == 0]
    if seen < vertices:
        raise ValueError("the graph has a directed cycle: paths need an acyclic graph.")
    return levels


def closure(tails: np.ndarray, heads: np.ndarray, start: int, levels: list[np.ndarray]) -> np.ndarray:
    """Which vertices are reached from ``start``, levels being in an order of the edges."""
    reached = np.zeros(int(sum(map(len, levels))), dtype=bool)
    reached[start] = True
    level_of = np.empty(len(reached), dtype=int)
    for number, level in enumerate(levels):
        level_of[level] = number
    order = np.argsort(level_of[tails], kind="stable")
    ends = np.searchsorted(level_of[tails][order], np.arange(len(levels) + 1))
    for a, b in itertools.pairwise(ends):
        edges = order[a:b]
        reached[heads[edges[reached[tails[edges]]]]] = True
    return reached


def incoming(heads: np.ndarray, vertices: int) -> np.ndarray:
    """Edges into each vertex, ``(largest number, vertices)``, padded by the last edge."""
    by_head = np.argsort(heads, kind="stable")
    first = np.searchsorted(heads[by_head], np.arange(vertices + 1))
    slot = np.arange(max(1, np.diff(first).max()))[:, None]
    return np.where(slot < np.diff(first), by_head[np.minimum(first[:-1] + slot, len(heads) - 1)], len(heads) - 1)


def sweep(tails: np.ndarray, heads: np.ndarray, levels: list[np.ndarray], vertices: int) -> Sweep:
    """Groups of one level and of about as many incoming edges; dead edges, and the last one, are at ``vertices``."""
    table = incoming(heads, vertices)
    degree = np.bincount(heads, minlength=vertices)[:vertices]
    groups = []
    for level in levels:
        width = np.ceil(np.log2(np.maximum(degree[level], 2))).astype(int)
        for size in np.unique(width[degree[level] > 0]):
            members = level[(width == size) & (degree[level] > 0)]
            edges = table[: degree[members].max(), members]
            groups.append(tuple(torch.from_numpy(a) for a in (members, edges, tails[edges])))
    return Sweep(groups)
