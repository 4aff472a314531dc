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
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.problem import Solution

Solve = Callable[[Model, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Solution]


def probe(model: Model, side: torch.Tensor) -> torch.Tensor:
    """Changes of the right sides that parameters may ask free columns to take up, ``(batch, rows)``: of rows that move,
    and of columns at bounds that move."""
    leaning = ((side < 0) & model.moving_bounds[0]) | ((side > 0) & model.moving_bounds[1])
    rows = torch.where(model.moving_rows, 1.0, 0.0) * model.amounts[: len(model.moving_rows)]
    return rows - model.rows.times(torch.where(leaning, model.amounts[len(model.moving_rows) :], 0.0))


def reopened(
    solve: Solve, model: Model, w: torch.Tensor, side: torch.Tensor, *batch: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Event columns and sides of the solutions nearby, and whether these were found.

    Args:
        solve: of ``(model, u, t, right, bounds)``, the arguments after the first of which are the batch.
        w: solutions ``(batch, columns)`` and where columns are fixed.
    """
    u, t, right, bounds = batch
    x, near = w[:, : model.event_columns].clone(), side.clone()
    found = torch.zeros(len(w), dtype=torch.bool, device=w.device)
    for size in tolerances.REOPENED:
        rows = torch.nonzero(~found).flatten()
        if not rows.numel():
            break
        sides = _opened(model, size, w[rows], side[rows], right[rows], bounds[rows])
        solution = solve(model, u[rows], t[rows], *sides)
        x[rows], near[rows], found[rows] = solution.w[:, : model.event_columns], solution.side, solution.accepted
    return x, near, found


def _opened(
    model: Model, size: float, w: torch.Tensor, side: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor
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
    return right + model.rows.times(inside - w), torch.stack([lower, upper], 1)
