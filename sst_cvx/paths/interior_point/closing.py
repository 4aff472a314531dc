"""Gradients by right sides and bounds where the active set leaves them no room: closing bounds, and vertices.

With all columns of sum x = b at bounds, or a column between bounds that coincide, M dw = dr has no solution in the free
columns, and no derivative in both directions exists. Every one-sided one is that of a point nearby: all that is closed
is opened a little, each column by an amount of its own, right sides follow (so that there is a point inside), and the
active set of that problem gives the derivative: an element of the generalised Jacobian (Clarke) of (r, bounds) -> x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.linear_algebra import LinearAlgebra
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.problem import Solution

Solve = Callable[[Model, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, LinearAlgebra], Solution]


def probe(model: Model, rows: LinearAlgebra, side: torch.Tensor) -> torch.Tensor:
    """Changes of the right sides that parameters may ask free columns to take up, ``(batch, rows)``: of rows that move,
    and of columns at bounds that move."""
    leaning = ((side < 0) & model.moving_bounds[0]) | ((side > 0) & model.moving_bounds[1])
    own = torch.where(model.moving_rows, 1.0, 0.0) * model.amounts[: len(model.moving_rows)]
    return own - rows.times(torch.where(leaning, model.amounts[len(model.moving_rows) :], 0.0))


def reopened(
    solve: Solve, model: Model, rows: LinearAlgebra, w: torch.Tensor, side: torch.Tensor, *batch: torch.Tensor
) -> Solution:
    """Solutions nearby, where they were found.

    Args:
        solve: of ``(model, u, t, right, bounds, rows)``; the batch is the middle ones.
        rows: M.
        w: solutions ``(batch, columns)`` and where columns are fixed.
    """
    u, t, right, bounds = batch
    none = torch.zeros(len(w), dtype=torch.bool, device=w.device)
    found = Solution(w.clone(), torch.zeros_like(right), side.clone(), none)
    for size in tolerances.REOPENED:
        left = torch.nonzero(~found.accepted).flatten()
        if not left.numel():
            break
        sides = _opened(model, rows[left], size, w[left], side[left], right[left], bounds[left])
        found.put(left, solve(model, u[left], t[left], *sides, rows[left]))
    return found


def _opened(
    model: Model,
    rows: LinearAlgebra,
    size: float,
    w: torch.Tensor,
    side: torch.Tensor,
    right: torch.Tensor,
    bounds: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right sides and bounds with room around w: columns at bounds step inside."""
    amount = size * (1 + w.abs()) * model.amounts[len(model.moving_rows) :]
    lower, upper = bounds.unbind(1)
    tight = upper - lower < 4 * amount
    low, high = (torch.full_like(lower[:1], end) for end in (-torch.inf, torch.inf))
    low[:, : model.event_columns], high[:, : model.event_columns] = model.f.domain
    lower = torch.where(tight & model.moving_bounds[0], torch.maximum(lower - 4 * amount, low), lower)
    upper = torch.where(tight & model.moving_bounds[1], torch.minimum(upper + 4 * amount, high), upper)
    middle = 0.5 * (lower + upper)
    inside = torch.where(side < 0, w + amount, torch.where(side > 0, w - amount, w))
    inside = torch.where(tight & (side != 0), middle, inside)
    return right + rows.times(inside - w), torch.stack([lower, upper], 1)
