"""Newton's method on the dual of entropic matchings where the host must not be asked: on an accelerator, in its graphs.

The method of ``matching_newton.py``, in a number of steps that depends on no number: elements that are done stay where
they are, those that are not done at the end are NaN, and the lengths of a line search are tried at once. How many steps
suffice was measured for perfect matchings, on 2,808 problems (normal, integer, of rank one; 2 to 50 columns): at most
28 for utilities over temperature of scales up to 1,000, at most 34 at 10,000. Others were only sampled.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from polytopes.kernels.matching_direction import bounded_direction, short
from polytopes.kernels.matching_duals import Duals, Point, laplacian

_FIRST_RANGE = 16.0  # range of the utilities at the first stage
_STAGE = 8.0  # growth of the scale from one stage to the next
_STEPS = 56
_MASKED_STEPS = 40  # before them: with forbidden entries at exactly 0
_LENGTHS = 1.0, 0.25  # of Newton's direction
_GUESSES = 3  # of which multipliers are at 0, for one direction

State = tuple[torch.Tensor, torch.Tensor]  # multipliers b (batch, m) and scale (batch,)


def solve_inside(problem: Duals, largest_range: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What ``matching_newton.solve`` returns, with NaN for what did not converge; reads nothing on the host."""
    fits = problem.spread <= largest_range
    nothing = torch.where(torch.isinf(problem.u), problem.u, 0.0) if problem.row is not None else 0.0
    u = torch.where(fits[:, None, None], problem.u, nothing)  # nothing that is not finite goes through the steps
    problem = replace(problem, u=u, spread=torch.where(fits, problem.spread, 0.0))
    if problem.row is None:
        _, point, done = _steps(problem, _start(problem), _STEPS)
    else:
        (b, scale), _, done = _steps(problem, _start(problem), _MASKED_STEPS)
        finite = problem.with_finite()
        u = torch.where(done[:, None, None], problem.u, finite.u)
        problem = replace(problem, u=u, spread=torch.where(done, problem.spread, finite.spread))
        anew = _start(problem)
        state = torch.where(done[:, None], b, anew[0]), torch.where(done, scale, anew[1])
        _, point, done = _steps(problem, state, _STEPS)
    return (torch.where((done & fits)[:, None, None], point.x, torch.nan), *problem.tight(point))


def _start(problem: Duals) -> State:
    return torch.zeros_like(problem.u[:, 0]), _FIRST_RANGE / problem.spread.clamp(min=_FIRST_RANGE)


def _steps(problem: Duals, state: State, steps: int) -> tuple[State, Point, torch.Tensor]:
    """Where the multipliers are after so many steps, and what is done."""
    b, scale = state
    tolerance = problem.tolerance
    lengths = torch.stack([torch.full_like(scale, length) for length in _LENGTHS])
    for step in range(steps):
        now = replace(problem, u=scale[:, None, None] * problem.u)
        point = now.at(b)
        done = (scale == 1) & (point.error <= tolerance)
        if step < steps - 1:
            grown = torch.where(point.error <= 0.1, (scale * _STAGE).clamp(max=1.0), scale)
            following = _step(now, point, lengths, step) * (grown / scale)[:, None]
            b, scale = torch.where(done[:, None], b, following), torch.where(done, scale, grown)
    return (b, scale), point, done


def _step(problem: Duals, point: Point, lengths: torch.Tensor, step: int) -> torch.Tensor:
    """The next b: Newton's where it lowers phi (or is near the end), else Sinkhorn's."""
    sinkhorn = problem.sinkhorn(point)
    if step < 3:
        return sinkhorn
    if problem.plain:
        direction, failed = _solved(laplacian(point.x), point.column - 1)
        search = _search
    else:
        direction, failed = bounded_direction(problem, point, _solved, 1 if problem.every_column else _GUESSES)
        search = _composite_search
    trials, good = search(problem, point, short(direction), lengths)
    trial = trials[-1]
    for i in reversed(range(len(trials) - 1)):
        trial = torch.where(good[i, :, None], trials[i], trial)
    usable = good.any(0) & (failed == 0) & torch.isfinite(direction).all(-1)
    return torch.where(usable[:, None], trial, sinkhorn)


def _solved(L: torch.Tensor, excess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's direction, and where there is none."""
    factor, failed = torch.linalg.cholesky_ex(L)
    return substituted(factor, excess.unsqueeze(-1)).squeeze(-1), failed


def substituted(factor: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """What Cholesky's factor solves; not by ``cholesky_solve``, whose library for batches allocates memory, which no
    CUDA graph allows."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def _search(
    problem: Duals, point: Point, direction: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Trials ``(lengths, batch, m)`` along Newton's direction, and which lower phi enough."""
    b = torch.cat([point.b[None], point.b + lengths[..., None] * direction])
    value = (problem.u - b[..., None, :]).logsumexp(-1).sum(-1) + b.sum(-1)
    slope = ((1 - point.column) * direction).sum(-1)
    return b[1:], (value[1:] <= value[0] + 1e-4 * lengths * slope) | (point.error <= 1e-3)


def _composite_search(
    problem: Duals, point: Point, direction: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``_search``, with Sinkhorn's step after each trial; where phi is flat to rounding, if the error falls."""
    value, slope = problem.value_of(point.b, point.level), ((1 - point.column) * direction).sum(-1)
    trial = problem.at(problem.inside(point.b + lengths[..., None] * direction))
    trial = problem.at(problem.sinkhorn(trial))
    fall = value - problem.value_of(trial.b, trial.level)
    lower = (fall >= -1e-4 * lengths * slope) & (fall > 1e-14 * (1 + value.abs()))
    return trial.b, lower | (trial.error <= 0.5 * point.error)
