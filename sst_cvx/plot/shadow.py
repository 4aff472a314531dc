"""The hull of a set in two or three dimensions, or its projection on as many, found by the hard argmax alone.

The furthest points along the normals of the facets of what has been found are new corners, or show that there are
none: when no facet is passed, the hull is complete. No list of vertices is needed, so a projection of a large set costs
a handful of questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.once import later
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import scipy.spatial as spatial
else:
    spatial = later("scipy.spatial")

#: The furthest points of the hull along some directions: ``(count, size)`` to the same.
Furthest = Callable[[np.ndarray], np.ndarray]

_NEAR = 1e-5  # points as near, in lengths of the set, are one in a picture
_MOST = 1_000  # corners; a curved hull has no end of them


@dataclass(frozen=True)
class Frame:
    """Coordinates of a picture: ``basis @ (x - origin)``, for flattened events; ``basis`` is ``(2 or 3, size)``."""

    origin: np.ndarray
    basis: np.ndarray

    def __call__(self, x: torch.Tensor) -> np.ndarray:
        """``(*batch, *event)``, flattened: ``(*batch, size)`` to ``(*batch, 2 or 3)``."""
        return (x.detach().cpu().double().numpy() - self.origin) @ self.basis.T


@dataclass(frozen=True)
class Shadow:
    """A hull in a frame: its corners ``(count, 2 or 3)``, and Qhull's account of them."""

    frame: Frame
    corners: np.ndarray
    facets: Any

    @property
    def outline(self) -> np.ndarray:
        """In two dimensions: the corners in order, the first again at the end."""
        order = self.facets.vertices
        return self.corners[np.append(order, order[0])]

    @property
    def triangles(self) -> np.ndarray:
        """In three dimensions: ``(count, 3, 3)``, of the surface."""
        return self.corners[self.facets.simplices]

    @property
    def edges(self) -> np.ndarray:
        """In three dimensions: ``(count, 2, 3)``, where triangles of different facets meet."""
        normals, found = self.facets.equations[:, :3], []
        for i, (corners, beside) in enumerate(zip(self.facets.simplices, self.facets.neighbors, strict=True)):
            for place, j in enumerate(beside):  # the neighbour opposite that corner
                if i < j and normals[i] @ normals[j] < 1 - 1e-6:
                    found.append(np.delete(corners, place))
        return self.corners[np.array(found)]


def cast(structure: Structure, directions: Any, parameters: dict[str, torch.Tensor]) -> Shadow:
    """The hull of the structure, or its projection on ``directions``, ``(2 or 3, *event_shape)``.

    Raises:
        ValueError: directions of a wrong shape, or none where the hull has not 2 or 3 dimensions.
    """

    def furthest(u: np.ndarray) -> np.ndarray:
        asked = torch.from_numpy(u).reshape(len(u), *structure.event_shape)
        return structure.argmax(asked, **parameters).double().flatten(1).numpy()

    frame = _own_frame(structure, furthest) if directions is None else _given_frame(structure, directions)
    return _complete(frame, furthest)


def _given_frame(structure: Structure, directions: Any) -> Frame:
    given = torch.as_tensor(directions).detach().cpu().double()
    if given.dim() == 0 or given.shape[1:] != structure.event_shape or len(given) not in (2, 3):
        shape = ", ".join(map(str, ("2 or 3", *structure.event_shape)))
        raise ValueError(f"directions must be of shape ({shape}), got {tuple(given.shape)}.")
    basis = given.flatten(1).numpy()
    if not np.isfinite(basis).all() or np.linalg.matrix_rank(basis) < len(basis):
        raise ValueError("directions must be finite and linearly independent.")
    return Frame(np.zeros(basis.shape[1]), basis)


def _own_frame(structure: Structure, furthest: Furthest) -> Frame:
    """The coordinates as they are where there are as many as dimensions, else orthonormal ones of the hull's plane."""
    size = structure.event_size
    points, axes, rank = _spanning(furthest, size)
    if rank not in (2, 3):
        raise ValueError(
            f"the hull of {structure!r} has {'more than 3' if rank > 3 else rank} dimensions: pass directions, of "
            f"shape (2 or 3, {', '.join(map(str, structure.event_shape))}), to project it on, e.g. torch.randn(...)."
        )
    if rank == size:
        return Frame(np.zeros(size), np.eye(size))
    return Frame(points.mean(0), _upright(axes[:rank]))


def _spanning(furthest: Furthest, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Points that span the hull's plane, an orthonormal basis of the space, first the axes of this plane, and how many
    these are; where they are over 3, others may be missing.

    Exact: at the end nothing is further along any axis across.
    """
    points = furthest(np.random.default_rng(0).standard_normal((4 * size + 16, size)))
    while True:
        length = _length(points)
        _, widths, axes = np.linalg.svd(points - points[0], full_matrices=True)
        rank = int((widths > _NEAR * length).sum())
        across = axes[rank:]
        if rank > 3 or not len(across):
            return points, axes, rank
        tried = furthest(np.concatenate([across, -across]))
        more = np.abs((tried - points[0]) @ across.T).max(1) > _NEAR * length
        if not more.any():
            return points, axes, rank
        points = np.concatenate([points, tried[more]])


def _length(points: np.ndarray) -> float:
    return np.ptp(points, axis=0).max(initial=0.0) or 1.0


def _upright(basis: np.ndarray) -> np.ndarray:
    """The orthonormal basis of the same plane whose first coordinate is along the first entry, as far as it can be."""
    found: list[np.ndarray] = []
    for entry in range(basis.shape[1]):
        along = basis.T @ basis[:, entry]
        for other in found:
            along = along - other * (other @ along)
        if np.linalg.norm(along) > 1e-3 and len(found) < len(basis):
            found.append(along / np.linalg.norm(along))
    return np.array(found)


def _complete(frame: Frame, furthest: Furthest) -> Shadow:
    dimensions = len(frame.basis)

    def seen(normals: np.ndarray) -> np.ndarray:
        return (furthest(normals @ frame.basis) - frame.origin) @ frame.basis.T

    points, _, rank = _spanning(seen, dimensions)
    if rank < dimensions:
        raise ValueError(f"on these directions the hull has fewer than {dimensions} dimensions: choose others.")
    corners = _distinct(points, _NEAR * _length(points))
    while True:
        near = _NEAR * _length(corners)
        facets = spatial.ConvexHull(corners)
        normals = np.unique(np.round(facets.equations[:, :dimensions], 12), axis=0)
        found = seen(normals)
        beyond = (normals * found).sum(1) - (normals @ corners.T).max(1)
        fresh = _distinct(found[beyond > near], near)
        if not len(fresh) or len(corners) + len(fresh) > _MOST:
            return Shadow(frame, corners, facets)
        corners = np.concatenate([corners, fresh])


def _distinct(points: np.ndarray, near: float) -> np.ndarray:
    return points[np.unique(np.round(points / near), axis=0, return_index=True)[1]]
