"""From an interior-point solution to the exact one: Newton's method on the KKT system of the active set, which is
guessed from the multipliers and changed where bounds or multipliers say so."""

from __future__ import annotations

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.kkt import ActiveSystem
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.problem import Iterate, Problem, Solution, largest


def polish(model: Model, problem: Problem, near: Iterate) -> Solution:
    """``accepted`` says where the answer satisfies the optimality conditions and is near the one it came from."""
    solution, events = _guess(model, problem, near, tolerances.ACTIVE), model.event_columns
    weak = model.barriers.add(torch.zeros_like(near.w), near.z, signed=False) < tolerances.WEAK
    wrong = torch.where(weak, tolerances.WRONG, torch.inf)
    if model.has_auxiliary:
        # Multipliers of auxiliary columns and their rows are rarely unique, so small signs mean nothing, ...
        wrong[:, events:] = torch.inf
    solution = _settle(model, problem, solution, wrong, near.w)
    slow = torch.nonzero(~solution.accepted).flatten()
    if slow.numel():
        part = solution.take(slow)
        _newton(model, problem.take(slow), part, tolerances.MANY_ROUNDS)
        solution.put(slow, part)
    if model.has_auxiliary and model.steep:
        # ... but those of entropies turn large where one bound too many is fixed.
        _try_fewer(model, problem, solution, wrong, near)
    if model.moves:
        _lean(model, problem, solution)
    distance = (solution.w - near.w)[:, :events].abs().amax(1)
    nearby = distance <= tolerances.NEARBY * (1 + model.beyond_start(near.w)[:, :events].abs().amax(1))
    solution.accepted &= nearby & (_outside(problem, solution) <= tolerances.ACCEPTED_OUTSIDE)
    return solution


def _lean(model: Model, problem: Problem, solution: Solution) -> None:
    """Pinned columns to the bound against which they push, in place: with that one they move."""
    push = _dual_residual(model, problem, solution)
    for end, steep, sign in zip(model.f.domain, model.f.steep, (torch.inf, -torch.inf), strict=True):
        if steep:  # phi' is infinite there: only away from it
            part = push[:, : model.event_columns]
            part.masked_fill_(solution.w[:, : model.event_columns] == end, sign)
    solution.side = torch.where(problem.pinned, 2.0 * (push > 0) - 1, solution.side)
    _pinned(problem, solution)


def _try_fewer(model: Model, problem: Problem, solution: Solution, wrong: torch.Tensor, near: Iterate) -> None:
    """With fewer active bounds, in place: what has the better objective is kept."""
    for ratio in tolerances.FEWER:
        inwards = (-solution.side * _dual_residual(model, problem, solution)).amax(1)
        again = torch.nonzero(inwards > tolerances.WRONG_AUXILIARY * problem.coldest[:, 0]).flatten()
        if not again.numel():
            return
        there, close = problem.take(again), near.take(again)
        part = _settle(model, there, _guess(model, there, close, ratio), wrong[again], close.w)
        better = part.accepted & (_gain(model, there, solution.take(again), part) > 0)
        solution.put(again[better], part.take(torch.nonzero(better).flatten()))


def _gain(model: Model, problem: Problem, before: Solution, after: Solution) -> torch.Tensor:
    """By how much the second of two feasible points has the better objective, ``(batch,)``."""
    events = model.event_columns
    x, y = before.w[:, :events], after.w[:, :events]
    value = problem.linear[:, :events] * (y - x)
    value = value - problem.temperature * (model.f.elementwise(y) - model.f.elementwise(x))
    return torch.where(before.accepted, value.sum(1), torch.inf)


def _settle(model: Model, problem: Problem, solution: Solution, wrong: torch.Tensor, near: torch.Tensor) -> Solution:
    """Newton steps and changes of the active set by turns."""
    todo = torch.arange(len(near), device=near.device)
    for _ in range(tolerances.CHANGES):
        part, there = solution.take(todo), problem.take(todo)
        _newton(model, there, part, tolerances.ROUNDS)
        changed = _change(model, there, part, wrong[todo], near[todo])
        solution.put(todo, part)
        if not bool(changed.any()):
            break
        todo = todo[changed]
    return solution


def _guess(model: Model, problem: Problem, near: Iterate, ratio: float) -> Solution:
    """Bounds are active whose multipliers are ``ratio`` times their gaps; of two close ones, that with the larger."""
    b = model.barriers
    closer = near.z > ratio * b.gaps(near.w, problem.ends)
    votes = b.add(torch.zeros_like(near.w), -(closer * near.z)).sign()
    votes = torch.where(problem.pinned, -1.0, votes)
    accepted = torch.zeros(len(votes), dtype=torch.bool, device=votes.device)
    return _pinned(problem, Solution(near.w.clone(), near.y.clone(), votes, accepted))


def _pinned(problem: Problem, solution: Solution) -> Solution:
    """With active columns at their bounds; in place."""
    lower, upper = problem.bounds.unbind(1)
    solution.w = torch.where(solution.side < 0, lower, torch.where(solution.side > 0, upper, solution.w))
    return solution


def _outside(problem: Problem, solution: Solution) -> torch.Tensor:
    """Largest distance beyond a bound, ``(batch,)``."""
    lower, upper = problem.bounds.unbind(1)
    return torch.maximum(lower - solution.w, solution.w - upper).amax(1)


def _dual_residual(model: Model, problem: Problem, solution: Solution) -> torch.Tensor:
    """u - t f'(x) - M' y: zero on free columns, the multiplier of the bound on others."""
    dual, events = problem.rows.dual_residual(problem.linear, solution.y), model.event_columns
    dual[:, :events] -= problem.temperature * model.f.slope(solution.w[:, :events])
    return dual


def _newton(model: Model, problem: Problem, solution: Solution, rounds: int) -> None:
    """Solve with the active set as it is, in place; judges the residuals."""
    t, events, coldest, f = problem.temperature, model.event_columns, problem.coldest, model.f
    free, unit = solution.side == 0, torch.ones_like(t[:, 0])
    for attempt in range(rounds + 1):
        p = torch.where(free, _dual_residual(model, problem, solution), 0.0)
        if model.inverts:  # what x would be with these multipliers: where x is tiny, that may be far away
            x = solution.w[:, :events]
            implied = f.inverse_slope(f.slope(x) + p[:, :events] / t)
            distance = (implied - x).abs()
            if model.steep_everywhere:  # no coordinate sticks to an end where its curvature is infinite
                solution.w[:, :events] = torch.where(free[:, :events], implied, x)
                p[:, :events] = 0.0
                distance = torch.zeros_like(distance)
        inverse_curvature = f.inverse_curvature(solution.w[:, :events]) / t
        if not model.inverts:
            distance = (p[:, :events] * inverse_curvature).abs()
        q = problem.rows.residual(problem.right, solution.w)
        error = torch.cat([distance, p[:, events:].abs() / coldest], 1)
        worst = torch.maximum(error.amax(1), largest(q) / (1 + largest(problem.right)))
        solution.accepted = worst <= tolerances.ACCEPTED
        if attempt == rounds or (attempt and bool((worst <= 10 * tolerances.EXACT).all())):
            break
        system = ActiveSystem(problem.rows, inverse_curvature, coldest, free)
        dw, dy, _ = system.solve(p, q, unit, tolerances.NEWTON_REFINEMENTS)
        if model.inverts and not model.steep_everywhere:
            x = solution.w[:, :events]
            dw[:, :events] = model.shorter_step(x, dw[:, :events], f.slope(x), f.curvature(x)) - x
        solution.w, solution.y = solution.w + dw, solution.y + dy


def _change(
    model: Model, problem: Problem, solution: Solution, wrong: torch.Tensor, near: torch.Tensor
) -> torch.Tensor:
    """Fix columns that left the bounds, release those that pull inwards; which elements changed."""
    lower, upper = problem.bounds.unbind(1)
    free = solution.side == 0
    below, above = free & (solution.w < lower), free & (solution.w > upper)
    inwards = -solution.side * _dual_residual(model, problem, solution) > wrong
    released = ~free & inwards & ~problem.pinned
    changed = (_outside(problem, solution) > tolerances.OUTSIDE) | released.any(1)
    side = torch.where(below, -1.0, torch.where(above, 1.0, torch.where(released, 0.0, solution.side)))
    solution.side = torch.where((changed[:, None] | below | above), side, solution.side)
    solution.w = torch.where(released, near, solution.w)  # not from the bound, where the curvature may be infinite
    _pinned(problem, solution)
    solution.accepted &= ~changed
    return changed
