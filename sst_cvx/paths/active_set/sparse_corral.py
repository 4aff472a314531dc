"""Corrals of vertices that are mostly 0, for the compiled loops of ``native.py``: as ``corral.py``, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sst_cvx import native
from sst_cvx.paths.active_set.corral import INDEPENDENT, Corral


class SparseCorral:
    """Vertices with weights for each of a batch, in slots that fill and empty; of a vertex, what is not 0."""

    def __init__(self, batch: int, n: int, slots: int = 8, width: int = 32):
        width = min(n, width)
        self.n = n
        self.size: np.ndarray
        self.used: np.ndarray
        self.weights: np.ndarray
        self.index, self.value = np.zeros((batch, slots, width), np.int64), np.zeros((batch, slots, width))
        self.size, self.used = np.zeros((batch, slots), np.int64), np.zeros((batch, slots), np.bool_)
        self.weights, self.inverse = np.zeros((batch, slots)), np.zeros((batch, slots, slots))
        self.used[:, 0], self.weights[:, 0], self.inverse[:, 0, 0] = True, 1.0, 1.0  # the origin

    def point(self) -> torch.Tensor:
        """The mixtures, ``(batch, n)``."""
        dense = self.dense()
        return (dense.weights[:, None] @ dense.vertices)[:, 0]

    def add(self, elements: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Give vertices ``(elements, n)`` a free slot at weight 0; -1 where they depend on those there."""
        from sst_cvx.paths.active_set.native import add

        self.reserve()
        slot = torch.empty(len(elements), dtype=torch.long, device="cpu")
        arguments = native.array(elements), native.array(v)
        while add(*arguments, *self.vertices, self.inverse, self.used, INDEPENDENT, native.array(slot)):
            self.widen()
        return slot

    def beside(self, elements: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Vectors ``(elements, n)`` less what of them is along the affine hulls."""
        from sst_cvx.paths.active_set.native import beside

        out = torch.empty(r.shape, dtype=torch.float64, device="cpu")
        vectors = native.array(elements), native.array(r)
        beside(*vectors, *self.vertices, self.inverse, self.used, native.array(out))
        return out

    def refresh(self, elements: torch.Tensor) -> None:
        """Compute the inverse anew, for updates lose digits."""
        from sst_cvx.paths.active_set.native import gram

        rows, slots = native.array(elements), self.used.shape[1]
        h = torch.empty(len(rows), slots, slots, dtype=torch.float64, device="cpu")
        gram(rows, self.n, *self.vertices, self.used, native.array(h))
        inverse = torch.linalg.inv_ex(h).inverse.numpy()
        used = self.used[rows]
        both = np.logical_and(used[:, :, None], used[:, None])
        self.inverse[rows] = 0.5 * (inverse + inverse.transpose(0, 2, 1)) * both

    @property
    def vertices(self) -> tuple[Any, Any, Any]:
        return self.index, self.value, self.size

    def dense(self) -> Corral:
        """The same with full vertices, in as many slots as are used."""
        order = np.argsort(np.logical_not(self.used), axis=1, kind="stable")[
            :, : max(1, int(self.used.sum(1).max(initial=0)))
        ]
        rows = np.arange(len(order))[:, None]
        index, value, size = self.index[rows, order], self.value[rows, order], self.size[rows, order]
        value = np.where(np.arange(index.shape[2]) < size[..., None], value, 0.0)
        vertices = torch.zeros(*order.shape, self.n, dtype=torch.float64, device="cpu")
        vertices.scatter_add_(2, torch.from_numpy(index), torch.from_numpy(value))
        inverse = self.inverse[rows[:, :, None], order[:, :, None], order[:, None]]
        rest = (inverse, self.weights[rows, order], self.used[rows, order])
        return Corral(vertices, *map(torch.from_numpy, rest))

    def reserve(self) -> None:
        """Room for one more vertex each."""
        if self.used.all(1).any():
            more = self.used.shape[1]
            self.index, self.value = (np.pad(a, ((0, 0), (0, more), (0, 0))) for a in (self.index, self.value))
            self.inverse = np.pad(self.inverse, ((0, 0), (0, more), (0, more)))
            self.size, self.used, self.weights = (
                np.pad(a, ((0, 0), (0, more))) for a in (self.size, self.used, self.weights)
            )

    def widen(self) -> None:
        """Room for more values a vertex."""
        more = min(self.n - self.index.shape[2], self.index.shape[2])
        self.index, self.value = (np.pad(a, ((0, 0), (0, 0), (0, more))) for a in (self.index, self.value))
