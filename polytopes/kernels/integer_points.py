"""Sets of integer points { x : lower <= A x <= upper, 0 <= x <= most } that are small enough to list."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: Boxes of as many integer points or fewer are listed for a log-partition.
FEW = 4096
_CELLS = 10_000_000  # entries of the partial points that are kept at once


def few(most: np.ndarray) -> bool:
    """Whether the box 0 <= x <= most has few integer points."""
    return sum(math.log(1 + int(m)) for m in most) <= math.log(FEW) + 1e-9


def refusal(structure: Any, what: str) -> str:
    """Why a log-partition is out of reach."""
    return (
        f"the log-partition of {structure!r} is a sum over {what}, which has no formula: it is computed from their "
        f"list, and their box has more than {FEW} points. Use another regularizer"
    )


def integer_points(
    rows: np.ndarray, lower: np.ndarray, upper: np.ndarray, most: np.ndarray, name: str = "the set"
) -> np.ndarray:
    """All of them, ``(count, columns)``, coordinate by coordinate: partial points that no other coordinates can bring
    within the bounds are dropped.

    Args:
        rows: A, ``(rows, columns)``. lower, upper: ``(rows,)``. most: ``(columns,)``. All integers, or infinite bounds.
        name: what is listed, for errors.

    Raises:
        ValueError: too many to hold.
    """
    reach = rows * most  # each coordinate adds between 0 and this to each row
    up = np.cumsum(reach.clip(min=0)[:, ::-1], axis=1)[:, ::-1]
    down = np.cumsum(reach.clip(max=0)[:, ::-1], axis=1)[:, ::-1]
    points, sums = np.zeros((1, 0)), np.zeros((1, len(rows)))
    for j, largest in enumerate(most):
        values = np.arange(int(largest) + 1.0)
        if len(points) * len(values) * (rows.shape[1] + len(rows)) > _CELLS:
            raise ValueError(f"{name} has too many vertices to list: {len(points)} beginnings of {j} of {len(most)}.")
        sums = (sums[:, None] + values[:, None] * rows[:, j]).reshape(-1, len(rows))
        chosen = np.tile(values, len(points))[:, None]
        points = np.hstack([np.repeat(points, len(values), axis=0), chosen])
        later = (up[:, j + 1], down[:, j + 1]) if j + 1 < len(most) else (0.0, 0.0)
        kept = ((sums + later[0] >= lower) & (sums + later[1] <= upper)).all(1)
        points, sums = points[kept], sums[kept]
    return points
