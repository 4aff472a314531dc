"""Newton's method on the dual of entropic matchings (``matching_duals.py``).

Sinkhorn's step b += log c converges linearly, and stalls at low temperatures; Newton's does not. Low temperatures are
reached by raising the scale of u in stages. Where multipliers have a bound, Newton's direction minimises the quadratic
model over a, b >= 0, which says in advance which rows and columns become loose or tight.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from polytopes.kernels.matching_direction import bounded_direction, short
from polytopes.kernels.matching_duals import Duals, Point, laplacian
from sst_cvx.errors import SolveError

_FIRST_RANGE = 16.0  # range of the utilities at the first stage
_STAGE = 4.0  # growth of the scale from one stage to the next
LARGEST_RANGE = 1e6  # sums are then right to about 1e-9
_MAX_STEPS = 300
_MASKED_STEPS = 40  # then forbidden entries get utilities that are low, but finite
_GUESSES = 8  # of which multipliers are at 0, for one direction

Solution = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def solve(problem: Duals) -> Solution:
    """X ``(batch, n, m)``, float64, and which rows and columns are tight.

    Where no matching avoids the forbidden entries, these carry weight.

    Raises:
        SolveError: Newton's method did not converge, naming the elements.
    """
    too_far = ~(problem.spread <= LARGEST_RANGE)
    if bool(too_far.any()):
        raise SolveError(
            f"utilities / temperature range over more than {LARGEST_RANGE:g} for {{elements}}, where "
            "float64 rounding would show in the answer: raise the temperature, or use argmax.",
            torch.nonzero(too_far).flatten().tolist(),
        )
    found, left, error = _newton(problem, _MAX_STEPS if problem.row is None else _MASKED_STEPS)
    if len(left) and problem.row is not None:
        # No matching, or entries that are 0 in all: multipliers without end, which low utilities keep finite.
        part, rest, error = _newton(problem.take(left).with_finite(), _MAX_STEPS)
        for whole, of_left in zip(found, part, strict=True):
            whole[left] = of_left
        left = left[rest]
    if len(left):
        raise SolveError(
            "Newton's method for matchings did not converge for {elements} "
            f"(column sums off by up to {float(error.max()):.1e}): raise the temperature.",
            left.tolist(),
        )
    return found


def solve_quietly(problem: Duals) -> Solution:
    """The same on the CPU, for compilers: NaN for elements that cannot be solved."""
    fits = problem.spread <= LARGEST_RANGE
    u = torch.where(fits[:, None, None] | torch.isneginf(problem.u), problem.u, 0.0)
    problem = replace(problem, u=u, spread=torch.where(fits, problem.spread, 0.0))
    try:
        x, rows, columns = solve(problem)
    except SolveError as error:
        keep = torch.ones_like(fits)
        keep[error.elements] = False
        x, rows, columns = (torch.zeros_like(part) for part in (problem.u, *problem.tight(problem.at(u[:, 0] * 0))))
        fits = fits & keep
        if bool(keep.any()):
            for whole, part in zip((x, rows, columns), solve(problem.take(keep)), strict=True):
                whole[keep] = part
    return torch.where(fits[:, None, None], x, torch.nan), rows, columns


def _newton(problem: Duals, steps: int) -> tuple[Solution, torch.Tensor, torch.Tensor]:
    """What ``solve`` returns; which elements did not converge, and by how much their column sums are off."""
    u, active = problem.u, torch.arange(len(problem.u), device=problem.u.device)
    tolerance = problem.tolerance
    scale = _FIRST_RANGE / problem.spread.clamp(min=_FIRST_RANGE)
    now = problem.scaled(scale)
    point = now.at(torch.zeros_like(u[:, 0]))
    x = torch.empty_like(u)
    rows, columns = problem.tight(point)
    for step in range(steps):
        done = (scale == 1) & (point.error <= tolerance)
        finished = int(done.sum())
        if 2 * finished >= len(done) or step == steps - 1:  # store what is done, and go on with the others
            x[active] = point.x
            if not problem.plain:
                rows[active], columns[active] = problem.tight(point)
            if finished == len(done):
                return (x, rows, columns), active[:0], point.error[:0]
            keep = ~done
            problem, point = problem.take(keep), point.take(keep)
            active, tolerance, scale, done = active[keep], tolerance[keep], scale[keep], done[keep]
            now = problem.scaled(scale)
        b = _step(now, point, step)
        if finished:
            b = torch.where(done[:, None], point.b, b)
        if now is not problem:
            grown = torch.where(point.error <= 0.1, (scale * _STAGE).clamp(max=1.0), scale)
            b, scale, now = b * (grown / scale)[:, None], grown, problem.scaled(grown)
        point = now.at(b)
    return (x, rows, columns), active, point.error


def _step(problem: Duals, point: Point, step: int) -> torch.Tensor:
    """The next b: Newton's where it lowers phi (or is near the end), else Sinkhorn's."""
    if step < 3:
        return problem.sinkhorn(point)
    if problem.plain:
        direction, failed = _solved(laplacian(point.x), point.column - 1)
        trial, good = _search(problem, point, short(direction))
    else:
        direction, failed = bounded_direction(problem, point, _solved, _GUESSES, stops_early=True)
        trial, good = _composite_search(problem, point, short(direction))
    usable = good & (failed == 0) & torch.isfinite(direction).all(-1)
    return trial if bool(usable.all()) else torch.where(usable[:, None], trial, problem.sinkhorn(point))


def _solved(L: torch.Tensor, excess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's direction, and where there is none."""
    factor, failed = torch.linalg.cholesky_ex(L)
    return torch.cholesky_solve(excess.unsqueeze(-1), factor).squeeze(-1), failed


def _search(problem: Duals, point: Point, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Backtracking along Newton's direction until phi falls enough; whole steps near the end. And where it does."""
    trial, good = point.b + direction, point.error <= 1e-3
    if bool(good.all()):
        return trial, good
    near, value, slope = good, problem.value(point.b), ((1 - point.column) * direction).sum(-1)
    length = torch.ones_like(value)
    for _ in range(8):
        trial = point.b + length[:, None] * direction
        good = near | (problem.value(trial) <= value + 1e-4 * length * slope)
        if bool(good.all()):
            break
        length = torch.where(good, length, 0.5 * length)
    return trial, good


def _composite_search(problem: Duals, point: Point, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``_search``, with Sinkhorn's step after each trial; where phi is flat to rounding, until the error falls."""
    value, slope = problem.value_of(point.b, point.level), ((1 - point.column) * direction).sum(-1)
    length, good, found = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool), point.b
    for _ in range(8):
        trial = problem.at(problem.inside(point.b + length[:, None] * direction))
        trial = problem.at(problem.sinkhorn(trial))
        fall = value - problem.value_of(trial.b, trial.level)
        lower = (fall >= -1e-4 * length * slope) & (fall > 1e-14 * (1 + value.abs()))
        fits = lower | (trial.error <= 0.5 * point.error)
        found = torch.where((fits & ~good)[:, None], trial.b, found)
        good = good | fits
        if bool(good.all()):
            break
        length = torch.where(good, length, 0.5 * length)
    return found, good
