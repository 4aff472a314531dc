"""A batched primal-dual interior-point solver for t f(x) - <u, x> over { M w = r, lower <= w <= upper }.

Mehrotra's predictor-corrector (SIAM J. Optim. 2, 1992), one Newton system shared by predictor and corrector, every
element of the batch with its own step, barrier and end. Three things are particular to entropies, where the plain
method stalls at low temperatures:

- Coordinates at whose bound phi' is infinite need no barrier: the solution never touches it.
- They move by the shorter of the Newton step in x and the Newton step in phi'(x): 0.5 to 1e-40 in one step, and
  never across the bound. Feasibility, which such steps break, is restored by the next ones.
- The temperature is lowered to its target as fast as the residuals allow, and the barrier no faster.

Utilities are centred and divided by their range first, so all tolerances are relative to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.problem import Iterate, Problem, largest
from sst_cvx.paths.interior_point.tolerances import Schedule
from sst_cvx.paths.iterations import count


def solve(model: Model, problem: Problem, start: torch.Tensor) -> tuple[Iterate, torch.Tensor]:
    """Solutions to about the root of machine precision, for Newton to finish; and which elements got there."""
    steps = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    answer, converged = run(model, problem, start, tolerances.BRISK, steps)
    for schedule in tolerances.PATIENT if model.steep else ():
        again = torch.nonzero(~converged).flatten()
        if not again.numel():
            break
        more = steps[again]
        answer_again, converged[again] = run(model, problem.take(again), start[again], schedule, more)
        answer.put(again, answer_again)
        steps[again] = more
    count(steps)
    return answer, converged


def run(
    model: Model, problem: Problem, start: torch.Tensor, schedule: Schedule, steps: torch.Tensor | None = None
) -> tuple[Iterate, torch.Tensor]:
    """By one schedule; elements leave the batch as they arrive. ``steps``, ``(batch,)``: what theirs are added to."""
    steps = torch.zeros(len(start), dtype=torch.int64, device=start.device) if steps is None else steps
    steps += schedule.iterations
    now = answer = _first(model, problem, start)
    converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    todo = torch.arange(len(start), device=start.device)
    for iteration in range(schedule.iterations):
        before, late = now, iteration > tolerances.LATE * schedule.iterations
        now, arrived = _iterate(model, problem, before, schedule, tolerances.LOOSE if late else model.tolerance)
        if not bool(arrived.any()):
            continue
        rest = torch.nonzero(~arrived).flatten()
        answer.put(todo[arrived], before.take(arrived))
        converged[todo[arrived]] = True
        steps[todo[arrived]] += iteration - schedule.iterations
        if not rest.numel():
            return answer, converged
        todo, now, problem = todo[rest], now.take(rest), problem.take(rest)
    return answer, converged


def _first(model: Model, problem: Problem, start: torch.Tensor) -> Iterate:
    gaps = model.barriers.gaps(start, problem.ends)
    target = problem.temperature.amax(1, keepdim=True)
    factor = (tolerances.FIRST_TEMPERATURE / target).clamp(min=1.0) if model.steep else torch.ones_like(target)
    return Iterate(start.clone(), torch.zeros_like(problem.right), tolerances.FIRST_BARRIER / gaps, factor)


@dataclass
class _Residuals:
    """At an iterate: of the optimality conditions, and what they are made of.

    ``dual`` is minus the gradient of the Lagrangian, without barriers; ``pairs`` are the products of gaps and
    multipliers; ``t`` the temperatures of this iterate.
    """

    t: torch.Tensor
    slope: torch.Tensor
    curvature: torch.Tensor
    dual: torch.Tensor
    primal: torch.Tensor
    infeasible: torch.Tensor
    gaps: torch.Tensor
    pairs: torch.Tensor


def _residuals(model: Model, problem: Problem, now: Iterate) -> _Residuals:
    events = model.event_columns
    x = now.w[:, :events]
    t = problem.temperature * now.temperature_factor if model.steep else problem.temperature
    slope, curvature = model.f.slope(x), model.f.curvature(x)
    dual = problem.rows.dual_residual(problem.linear, now.y)
    dual[:, :events].addcmul_(t, slope, value=-1)
    primal = problem.rows.residual(problem.right, now.w)
    gaps = model.barriers.gaps(now.w, problem.ends)
    return _Residuals(t, slope, curvature, dual, primal, largest(primal)[:, None], gaps, gaps * now.z)


def _iterate(
    model: Model, problem: Problem, now: Iterate, schedule: Schedule, tolerance: float
) -> tuple[Iterate, torch.Tensor]:
    """One predictor-corrector step, and which elements had arrived before it."""
    left = _residuals(model, problem, now)
    arrived = _arrived(model, problem, now, left, tolerance)
    if bool(arrived.all()):
        return now, arrived
    dw, dy, dz, step = _direction(model, problem, now, left)
    w, factor = now.w + step * dw, now.temperature_factor
    if model.steep:
        events = model.event_columns
        x = now.w[:, :events]
        moved = model.shorter_step(x, step * dw[:, :events], left.slope, left.curvature).clamp(*_inside(model))
        w[:, :events] = torch.where(problem.pinned[:, :events], x, moved) if model.moves else moved
        factor = torch.where(left.infeasible < schedule.gate, (factor * schedule.cooling).clamp(min=1.0), factor)
    return Iterate(w, now.y + step * dy, now.z + step * dz, factor), arrived


def _inside(model: Model) -> tuple[float, float]:
    """The part of the domain in which coordinates stay."""
    (low, high), (steep_low, steep_high), nearest = model.f.domain, model.f.steep, tolerances.NEAREST
    return low + nearest if steep_low else low, high - nearest if steep_high else high


def _direction(
    model: Model, problem: Problem, now: Iterate, left: _Residuals
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | float]:
    """Mehrotra's dw, dy, dz, and how far to go, ``(batch, 1)``."""
    b = model.barriers
    hessian = torch.full_like(left.dual, tolerances.PROXIMAL_STEEP if model.steep else tolerances.PROXIMAL)
    hessian[:, : model.event_columns].addcmul_(left.t, left.curvature)
    if model.moves:
        hessian = torch.where(problem.pinned, tolerances.IMMOVABLE, hessian)
    if not b.count:
        dw, dy = problem.rows.factor(hessian.reciprocal()).solve(left.dual, left.primal)
        return dw, dy, now.z, 1.0
    inverse = left.gaps.reciprocal()
    factor = problem.rows.factor(b.add(hessian, now.z * inverse, signed=False).reciprocal())
    dw, dy = factor.solve(left.dual, left.primal)
    center = _center(model, now, left, b.along(dw) * inverse) * inverse
    dw, dy = factor.solve(b.add(left.dual, center), left.primal)
    for _ in range(tolerances.STEP_REFINEMENTS if model.has_auxiliary else 0):
        more, dy_more = factor.solve(torch.zeros_like(dw), problem.rows.residual(left.primal, dw))
        dw, dy = dw + more, dy + dy_more
    relative = b.along(dw) * inverse
    dz = center - now.z * (1 + relative)
    furthest = torch.maximum(-relative, -dz / now.z).amax(1, keepdim=True)
    return dw, dy, dz, (tolerances.STEP / furthest.clamp(min=1e-30)).clamp(max=1.0)


def _center(model: Model, now: Iterate, left: _Residuals, relative: torch.Tensor) -> torch.Tensor:
    """Mehrotra's corrected target for the products of gaps and multipliers, from the predictor's relative changes of
    the gaps."""
    mu = left.pairs.mean(1, keepdim=True)
    low, high = relative.aminmax(dim=1, keepdim=True)
    step = torch.maximum(-low, 1 + high).clamp(min=1.0).reciprocal()
    reached = (left.pairs * (1 + step * relative) * (1 - step * (1 + relative))).mean(1, keepdim=True)
    target = (reached / mu).clamp(0, 1) ** 3 * mu
    if model.steep:
        floor = torch.maximum(
            tolerances.BARRIER_FLOOR_INFEASIBLE * left.infeasible.clamp(max=1.0),
            tolerances.BARRIER_FLOOR * (now.temperature_factor > 1),
        )
        target = torch.maximum(target, left.t.amax(1, keepdim=True) * floor)
    target = torch.maximum(target, tolerances.LEAST_BARRIER * now.temperature_factor)
    most = tolerances.MOST_CORRECTION * mu
    return target + (left.pairs * relative * (1 + relative)).clamp(-most, most)


def _arrived(model: Model, problem: Problem, now: Iterate, left: _Residuals, tolerance: float) -> torch.Tensor:
    """Residuals small enough for the active set to be known, ``(batch,)``."""
    t, events = problem.coldest, model.event_columns
    arrived = (
        (left.pairs.sum(1, keepdim=True) <= (tolerance * t).clamp(min=tolerances.ROUNDING))
        & (left.infeasible <= 10 * tolerance)
        & (now.temperature_factor == 1)
    )
    if not bool(arrived.any()):
        return arrived[:, 0]
    dual = model.barriers.add(left.dual, now.z) if model.barriers.count else left.dual
    if model.moves:
        dual = torch.where(problem.pinned, 0.0, dual)
    error = dual.abs()
    if model.steep:  # a residual counts by what x would be without it: where x is tiny, that may be far away
        x = model.f.inverse_slope(left.slope + dual[:, :events] / left.t)
        error[:, :events] = t * (x - now.w[:, :events]).abs()
    else:
        error[:, :events] /= left.curvature.clamp(min=1.0)
    return (arrived & (error.amax(1, keepdim=True) <= (tolerances.DUAL * t).clamp(min=tolerances.ROUNDING)))[:, 0]
