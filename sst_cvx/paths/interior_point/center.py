"""A point to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.once import later
from sst_cvx.paths.interior_point import tolerances

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


def towards_center(M: Any, ends: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Towards the analytic center of { M w = r, ends[0] <= w <= ends[1] }, where the sum of log distances to the bounds
    is largest, by damped Newton steps from a point inside.

    Any point of the relative interior will do to start from; from this one the solver takes a third fewer iterations.
    """
    lower, upper = ends
    for _ in range(tolerances.CENTERING_STEPS):
        if not ((lower < w) & (w < upper)).all():  # a hull that is flat in some bound has no center
            break
        below, above = 1 / (w - lower), 1 / (upper - w)  # 0 where there is no bound
        inverse_curvature = 1 / (below**2 + above**2 + 1e-8)
        slope = below - above
        schur = (M @ sp.diags_array(inverse_curvature) @ M.T + 1e-13 * sp.eye_array(M.shape[0])).tocsc()
        y = sp.linalg.spsolve(schur, M @ (inverse_curvature * slope)) if M.shape[0] else np.zeros(0)
        step = inverse_curvature * (slope - M.T @ y)
        furthest = max(float(np.max(-step * below, initial=0.0)), float(np.max(step * above, initial=0.0)))
        if not np.isfinite(furthest) or furthest < tolerances.CENTERED:
            break
        w = w + step / max(1.0, furthest / 0.7)
    return w


def between(bounds: torch.Tensor) -> torch.Tensor:
    """A point inside bounds ``(batch, 2, columns)``, for an infeasible start: in the middle, or one away from a single
    bound."""
    lower, upper = bounds.detach().unbind(1)
    below, above = torch.isfinite(lower), torch.isfinite(upper)
    alone = torch.where(below, lower + 1, torch.where(above, upper - 1, 0.0))
    return torch.where(below & above, 0.5 * (lower + upper), alone)
