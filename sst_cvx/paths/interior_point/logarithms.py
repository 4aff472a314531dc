"""log x at the soft argmax of an entropy over a polytope, where x has no digits or underflows too."""

from __future__ import annotations

import torch

from sst_cvx.paths.interior_point import interior, tolerances
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.polish import polish
from sst_cvx.paths.interior_point.problem import Problem, Solution
from sst_cvx.paths.interior_point.relative import Given, LiftedRows, equations, newton_step, refine
from sst_cvx.paths.interior_point.tableau import logarithms
from sst_cvx.regularizers import BinaryEntropy

_DIFFERENTIABLE = 2  # Newton steps at the solution, of length 0: their derivatives are its own, up to the third


def logarithms_at(
    model: Model, rows: LiftedRows, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log x of the event columns ``(batch, event_columns)``, and which elements are right, ``(batch,)``.

    Args:
        u: utilities of the event columns, ``(batch, event_columns)``; t: temperatures, ``(batch, 1)``.
        right, bounds: ``(batch, rows)`` and ``(batch, 2, columns)``.
    """
    problem, start = model.problem(u, t, right, bounds, model.rows)
    if not len(rows.matrix):
        log_x = logarithms(model.f, problem.linear[:, : model.event_columns] / problem.temperature)[0]
        return log_x, torch.ones_like(t[:, 0], dtype=torch.bool)
    with torch.no_grad():
        near, converged = interior.solve(model, problem, start)
        solution = polish(model, problem, near)
        s = _slopes(model, rows, problem, solution)
        at = refine(model.f, rows, _given(model, rows, problem), s)
    given, events = _given(model, rows, problem), model.event_columns
    system = equations(model.f, rows, given, at, tolerances.LEVELS[-1])
    local = torch.cat([at.s[:, :events] * at.sign[:, :events], at.s[:, events:]], 1)
    mu = system.unknowns(local).detach()
    for _ in range(_DIFFERENTIABLE):
        step = newton_step(system, mu, events)
        mu = mu + (step - step.detach())
    log_x = logarithms(model.f, system.slopes(mu)[:, :events] * at.sign[:, :events])[0]
    log_x = torch.where(problem.pinned[:, :events], bounds[:, 0, :events].log(), log_x)
    known = converged & solution.accepted  # two algorithms agree, where both have digits
    apart = (log_x.detach().exp() - solution.w[:, :events]).abs().amax(1) > tolerances.APART
    good = (at.level <= tolerances.LEVELS[-1]) & torch.isfinite(log_x.detach()).all(1) & ~(known & apart)
    return log_x, good


def _given(model: Model, rows: LiftedRows, problem: Problem) -> Given:
    events = model.event_columns
    return Given(
        problem.linear[:, :events],
        problem.temperature,
        rows.right(problem.right, problem.bounds),
        rows.origin(problem.bounds, problem.pinned),
        rows.sign(problem.linear),
        rows.moving(problem.pinned),
    )


def _slopes(model: Model, rows: LiftedRows, problem: Problem, solution: Solution) -> torch.Tensor:
    """Of all columns, to start from: by the multipliers, or where these need not be unique, by the columns."""
    events, x = model.event_columns, solution.w[:, : model.event_columns]
    if len(rows.bounded) > events:
        high = 1 - tolerances.CLOSE if isinstance(model.f, BinaryEntropy) else torch.inf
        slopes = model.f.slope(x.clamp(tolerances.CLOSE, high))
    else:
        slopes = problem.rows.dual_residual(problem.linear, solution.y)[:, :events] / problem.temperature
    return torch.cat([slopes, rows.distances(solution.w, problem.bounds).log() + 1], 1)
