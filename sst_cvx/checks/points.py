"""Finite sets of points and polyhedra, as far as they are small: facets, extreme points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sst_cvx.hull.linear import LinearHull
from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.optimize as optimize
else:
    optimize = later("scipy.optimize")

_FACETS = 7, 150  # dimensions and points up to which all facets are computed
_PARTIAL = 2_000_000  # numbers in a table of partial points
_TIGHT = 1e-9  # slack of a row, relative to its size, that counts as none
_PROGRAMS = 200  # linear programs to tell extreme points


def facet_normals(points: np.ndarray) -> np.ndarray:
    """Normals of all facets of conv(points), within its affine hull, and both ways across that, ``(count, size)``;
    none where there are too many."""
    from scipy.spatial import ConvexHull, QhullError  # half the time of importing this package

    centred = points - points.mean(axis=0)
    scale = np.abs(centred).max(initial=0.0)
    if scale == 0:
        return np.zeros((0, points.shape[1]))
    _, singular, basis = np.linalg.svd(centred / scale, full_matrices=min(points.shape) < 200)
    rank = int((singular > 1e-9 * singular[0]).sum())
    across, along = basis[rank:], basis[:rank]
    if rank == 1:
        return np.vstack([along, -along, across, -across])
    if rank > _FACETS[0] or len(points) > _FACETS[1]:
        return np.vstack([across, -across])
    try:
        facets = ConvexHull(centred @ along.T / scale).equations[:, :-1]
    except QhullError:
        return np.vstack([across, -across])
    return np.vstack([np.unique(np.round(facets, 12), axis=0) @ along, across, -across])


def are_extreme(points: np.ndarray) -> np.ndarray:
    """Which of some distinct points are not in the hull of the others; those that could not be told count as such.

    Any that alone is furthest in its own direction from the middle, or in a random one, is; of others a linear
    program tells.
    """
    directions = np.vstack([points, points / np.maximum(points.std(axis=0), 1e-12) ** 2])
    extreme = np.zeros(len(points), bool)
    for part in np.array_split(directions, max(1, len(directions) * len(points) // 2_000_000)):
        values = part @ points.T
        best = values.argmax(axis=1)
        top = np.partition(values, -2, axis=1)[:, -2:] if len(points) > 1 else np.array([[0.0, 1.0]] * len(part))
        extreme[best[top[:, 1] - top[:, 0] > 1e-9 * (1 + np.abs(top[:, 1]))]] = True
    for i in np.flatnonzero(~extreme)[:_PROGRAMS]:
        extreme[i] = not _in_hull(points[i], np.delete(points, i, axis=0))
    extreme[np.flatnonzero(~extreme)[_PROGRAMS:]] = True
    return extreme


def _in_hull(point: np.ndarray, others: np.ndarray) -> bool:
    """Whether weights on others give the point."""
    if not len(others):
        return False
    rows, right = np.vstack([others.T, np.ones(len(others))]), np.append(point, 1.0)
    return optimize.linprog(np.zeros(len(others)), A_eq=rows, b_eq=right, method="highs").status == 0


def extreme_points(hull: LinearHull, levels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Extreme points of a polyhedron that have coordinates of given values, ``(count, size)``, and directions in
    which each of them alone is furthest; none where there are too many.

    Coordinate by coordinate: partial points are kept while every row can still be met.
    """
    size = len(levels)
    rows, room = hull.rows.toarray()[:, hull.event], _TIGHT * (1 + np.abs(hull.rows.data).max(initial=0.0) * size)
    lower, upper = hull.lower[hull.event], hull.upper[hull.event]
    levels = [v[(v >= a - room) & (v <= b + room)] for v, a, b in zip(levels, lower, upper, strict=True)]
    nothing = np.zeros((0, size)), np.zeros((0, size))
    if not all(map(len, levels)):
        return nothing
    ends = np.array([[v.min(), v.max()] for v in levels])
    least, most = (np.where((rows > 0) == first, ends[:, 0], ends[:, 1]) * rows for first in (True, False))
    partial, activity = np.zeros((1, 0)), np.zeros((1, len(rows)))
    for i, values in enumerate(levels):
        if len(partial) * len(values) * (len(rows) + size) > _PARTIAL:
            return nothing
        partial = np.hstack([np.repeat(partial, len(values), axis=0), np.tile(values, len(partial))[:, None]])
        activity = np.repeat(activity, len(values), axis=0) + partial[:, -1:] * rows[:, i]
        can = activity + least[:, i + 1 :].sum(axis=1) <= hull.row_upper + room
        can &= activity + most[:, i + 1 :].sum(axis=1) >= hull.row_lower - room
        keep = can.all(axis=1)
        partial, activity = partial[keep], activity[keep]
    normals = np.hstack([partial, activity])  # which rows and bounds are tight, and whose normals those are
    faces = np.vstack([np.eye(size), rows])
    tops = np.append(upper, hull.row_upper), np.append(lower, hull.row_lower)
    above, below = (np.abs(normals - end) <= room for end in tops)
    tight = (above | below).astype(float)
    units = faces / np.maximum(np.linalg.norm(faces, axis=1, keepdims=True), 1e-300)
    full = np.ones(len(partial), bool)
    for part in np.array_split(np.arange(len(partial)), max(1, len(partial) * size * size // 2_000_000)):
        gram = np.einsum("pf,fi,fj->pij", tight[part], units, units, optimize=True)
        full[part] = np.linalg.eigvalsh(gram)[:, 0] > 1e-8 if len(part) else True
    return partial[full], ((above & ~below) - 1.0 * (below & ~above))[full] @ units
