"""Newton's directions in the dual of entropic matchings, for whoever searches along them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from polytopes.kernels.matching_duals import Duals, Point, laplacian_of

Solve = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def short(direction: torch.Tensor) -> torch.Tensor:
    """Of 4 at most."""
    return direction * (4.0 / direction.abs().amax(-1, keepdim=True).clamp(min=4.0))


def bounded_direction(
    problem: Duals, point: Point, solve: Solve, guesses: int, stops_early: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's direction with bounds: the minimum of the dual's quadratic model in a and b over a, b >= 0.

    From a guess which of them are at 0, which the solution corrects, a few times (a primal-dual active set).

    Args:
        solve: of a matrix and a right side, the solution, and where there is none.
        guesses: at most so many; ``stops_early``: or until one confirms itself, which is read on the host.
    """
    b, x, column = point.b, point.x, point.column
    row, a = x.sum(-1).clamp(min=1e-300), (point.level - 1).clamp(min=0.0)
    tight, free = problem.tight(point)
    if not problem.every_column:
        free = free | (column > 1)
    for _ in range(guesses):
        of_a, of_b = torch.where(tight, 0.0, -a), torch.where(free, 0.0, -b)
        lack = torch.where(tight, (row - 1 - _times(x, of_b)) / row, of_a)
        L = laplacian_of(x * (tight / row.sqrt())[:, :, None], column, free, problem.every_column)
        direction, failed = solve(L, torch.where(free, column - 1 - _times(x.mT, lack), 0.0))
        direction = torch.where(free, direction, of_b)
        of_a = torch.where(tight, (row - 1 - _times(x, direction)) / row, of_a)
        guess = tight, free
        if not problem.every_row:
            tight = torch.where(tight, a + of_a > 0, row - row * of_a - _times(x, direction) > 1)
        if not problem.every_column:
            free = torch.where(free, b + direction > 0, column - column * direction - _times(x.mT, of_a) > 1)
        tight, free = problem.of_those_there(tight, free)
        if stops_early and torch.equal(tight, guess[0]) and torch.equal(free, guess[1]):
            break
    return direction, failed


def _times(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (x @ v.unsqueeze(-1)).squeeze(-1)
