"""Whether points of a list are distinct, and none of them in the hull of the others.

A point is extreme where it alone is furthest in some direction. Tried for all points at once: its own direction from
the middle, as it is and with coordinates of equal spread; in few dimensions, the sum of the normals of its facets
(Qhull); then a perceptron a point, which turns its direction away from whichever other point beats it. Of the few that
are left, a linear program a point decides (HiGHS). Points whose coordinates take two values each (all 0/1 arrays) are
corners of a box, and so extreme.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.optimize as optimize
else:
    optimize = later("scipy.optimize")

TOLERANCE = 1e-9  # of the set's length: points as near are one, and as near to the hull of others within it
_FACETS = 5  # dimensions up to which facets are cheap
_TURNS = 40  # of the perceptrons
_NUMBERS = 4_000_000  # products in memory at once


def first_repeated(points: np.ndarray) -> tuple[int, int] | None:
    """Two equal points ``(count, size)``, up to the tolerance, the second the first that repeats one."""
    length = np.ptp(points, axis=0).max(initial=0.0) or 1.0
    scaled = np.round((points - points[0]) / (TOLERANCE * length)) + 0.0  # no negative zeros
    _, first, place = np.unique(scaled, axis=0, return_index=True, return_inverse=True)
    own = first[place.reshape(-1)]
    repeated = np.flatnonzero(own != np.arange(len(points)))
    return (int(own[repeated[0]]), int(repeated[0])) if repeated.size else None


def first_inside(points: np.ndarray) -> int | None:
    """The first of some distinct points ``(count, size)`` that is in the hull of the others, or as near."""
    low, high = points.min(axis=0), points.max(axis=0)
    if bool(((points == low) | (points == high)).all()):
        return None
    scaled = (points - points.mean(axis=0)) / (high - low).max()
    for i in _untold(scaled):
        if _in_hull(scaled[i], np.delete(scaled, i, axis=0)):
            return int(i)
    return None


def _untold(points: np.ndarray) -> np.ndarray:
    """Numbers of the points that no certificate shows to be extreme."""
    spread = points.std(axis=0)
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
    left = np.arange(len(points))
    for directions in (points, points * scale**2, _corner_normals(points)):
        if directions is not None and left.size:
            left = left[~_win(directions[left], points, left)[0]]
    even = points * scale  # perceptrons turn fewer times in a round set
    turning = even[left]
    for _ in range(_TURNS):
        if not left.size:
            break
        won, rival = _win(turning * scale, points, left)
        left, turning, rival = left[~won], turning[~won], rival[~won]
        away = even[left] - even[rival]
        length = np.linalg.norm(turning, axis=1, keepdims=True)
        away = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300)
        turning = turning / np.maximum(length, 1e-300) - np.minimum((turning * away).sum(1, keepdims=True), 0) * away
        turning = turning + 0.1 * away
    return left


def _corner_normals(points: np.ndarray) -> np.ndarray | None:
    """Sums of the unit normals of the facets that meet at each point; None where there may be too many."""
    from scipy.spatial import ConvexHull, QhullError  # half the time of importing this package

    _, singular, basis = np.linalg.svd(points, full_matrices=False)
    rank = int((singular > TOLERANCE * singular[0]).sum())
    if not 2 <= rank <= _FACETS:
        return None
    try:
        hull = ConvexHull(points @ basis[:rank].T)
    except QhullError:
        return None
    normals = np.zeros((len(points), rank))
    np.add.at(normals, hull.simplices, hull.equations[:, None, :-1])
    return normals @ basis[:rank]


def _win(directions: np.ndarray, points: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each point ``own`` is furthest along its direction, by more than the tolerance; and the best other."""
    won, rival = np.zeros(len(own), bool), np.zeros(len(own), int)
    size = np.linalg.norm(directions, axis=1)
    for part in np.array_split(np.arange(len(own)), max(1, len(own) * len(points) // _NUMBERS)):
        values, rows = directions[part] @ points.T, np.arange(len(part))
        mine = values[rows, own[part]]
        values[rows, own[part]] = -np.inf
        rival[part] = values.argmax(axis=1)
        won[part] = mine - values[rows, rival[part]] > TOLERANCE * size[part]
    return won, rival


def _in_hull(point: np.ndarray, others: np.ndarray) -> bool:
    """Whether weights on others give the point."""
    rows, right = np.vstack([others.T, np.ones(len(others))]), np.append(point, 1.0)
    options = {"primal_feasibility_tolerance": TOLERANCE}
    return optimize.linprog(np.zeros(len(others)), A_eq=rows, b_eq=right, method="highs", options=options).status == 0
