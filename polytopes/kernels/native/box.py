"""One pass over points of a box."""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled


@compiled
def holds(x: np.ndarray, least: float, most: float, tolerance: float, room: float) -> bool:
    """Whether all entries of x ``(rows, n)`` are in [0, 1], and sums of rows in [least, most], within tolerance and
    room."""
    for i in range(x.shape[0]):
        total = 0.0
        for j in range(x.shape[1]):
            if not -tolerance <= x[i, j] <= 1 + tolerance:  # nor a NaN
                return False
            total += x[i, j]
        if not least - room <= total <= most + room:
            return False
    return True
