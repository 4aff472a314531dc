"""Newton's method on the KKT system of the active set: the last digits of a solution, and its derivative.

With the active bounds fixed, t f(x) - <u, x> over M w = r has the optimality conditions

    t f'(x) + M' y = u   (free columns),     M w = r,

and their linearisation at the solution is both the Newton step and, by the implicit function theorem, the derivative:

    [ H  M' ] [ dw ]   [ du ]
    [ M  0  ] [ dy ] = [ dr ],    H = diag(t f''(x)) on event coordinates, 0 on auxiliary columns and slacks,

restricted to free columns. It is solved by the Schur complement with a small curvature added where H has none and a
floor under its diagonal, and iterative refinement takes both out again: proximal steps, that converge for any
consistent system, dependent active rows (tree polytopes, vertices) included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sst_cvx.paths.interior_point.dense import LinearAlgebra
from sst_cvx.paths.interior_point.solver import Barriers, Batched, Iterate, Problem, largest, shorter_step
from sst_cvx.regularizers import Euclidean, SeparableRegularizer

_WEAK = 1e-2  # multipliers below this may turn out to be zero
_NEARBY = 1e-3  # how far an answer may be from the interior-point solution
_WRONG, _WRONG_AUXILIARY = 1e-11, 0.05  # multiplier on the wrong side that frees a column; of others, over t
_EXACT, _ACCEPTED = 1e-12, 3e-10  # errors, in units of x
_ROUNDS, _MANY_ROUNDS = 5, 40  # of Newton steps with one active set
_CHANGES = 8  # of the active set
_REFINEMENTS, _NEWTON_REFINEMENTS = 40, 8
_PROXIMAL = 1e-4  # curvature of auxiliary columns, times t
_FREE = 1e20  # inverse curvature of free slacks, whose rows it takes out
_FEWER = (1e6, 1e8, 1e10)  # the same ratio, where more turn out not to be active
_RATIO = 1e4  # of multiplier and gap, for an active bound; one fixed too few costs one more solve, one too many several


@dataclass
class Solution(Batched):
    """Columns w, row multipliers y, and for each column -1, 0, 1: at its lower bound, free, at its upper bound."""

    w: torch.Tensor
    y: torch.Tensor
    side: torch.Tensor
    accepted: torch.Tensor


class ActiveSystem:
    """The linearised KKT system of a batch, with its factor.

    Args:
        rows: M.
        compliance: 1 / (t f'') of the event's columns, ``(batch, curved)``.
        t: temperature, ``(batch, 1)``.
        free: columns that are not at a bound, ``(batch, columns)``.
    """

    def __init__(self, rows: LinearAlgebra, compliance: torch.Tensor, t: torch.Tensor, free: torch.Tensor):
        curved, structural = compliance.shape[1], free.shape[1] - rows.slacks
        self._rows, self._curved = rows, curved
        d = torch.full_like(free, _FREE, dtype=torch.float64)
        d[:, :curved] = compliance
        d[:, curved:structural] = 1 / (_PROXIMAL * t)
        self._d = torch.where(free, d, 0.0)
        self._free = self._d > 0
        self._proximal = torch.where(self._free, 1 / self._d, 0.0)
        self._proximal[:, :curved] = 0.0
        self._factor = rows.factor_active(self._d, t)

    def solve(
        self, p: torch.Tensor, q: torch.Tensor, unit: torch.Tensor, refinements: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """dw, dy for right sides p ``(batch, columns)``, q ``(batch, rows)``; and the error left, ``(batch,)``.

        Entries of p at active columns do not count. The error is relative to the larger of ``unit`` and dw.
        """
        p = torch.where(self._free, p, 0.0)
        ahead, dy = self._factor.solve(p, q)
        dw, size = ahead, torch.maximum(ahead.abs().amax(1), unit).clamp(min=1e-200)
        for _ in range(refinements):
            # Event columns satisfy their equations for any dy; of others, the last step's added curvature is left.
            ahead, dy_ahead = self._factor.solve(self._proximal * ahead, self._rows.residual(q, dw))
            dw, dy = dw + ahead, dy + dy_ahead
            error = ahead.abs().amax(1) / size
            if bool((error <= _EXACT).all()):
                break
        return dw, dy, error

    def solve_surely(
        self, p: torch.Tensor, q: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``solve``, with a dense least-squares solution for elements whose refinement does not converge."""
        dw, dy, error = self.solve(p, q, unit, _REFINEMENTS)
        for i in torch.nonzero(~(error <= 1e-8)).flatten().tolist():
            dw[i], dy[i], error[i] = self._least_squares(i, p[i], q[i], unit[i])
        return dw, dy, error

    def _least_squares(
        self, i: int, p: torch.Tensor, q: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """In v = D^(-1/2) dw, the matrix [[I or 0, (M D^(1/2))'], [M D^(1/2), 0]]; its event part is unique."""
        free, rows = self._free[i], len(q)
        root = self._d[i][free].sqrt()
        columns = torch.eye(len(free), dtype=p.dtype, device=p.device)[free]
        scaled = self._rows.times(columns * root[:, None])  # (free, rows)
        curved = torch.nonzero(free).flatten() < self._curved
        matrix = torch.cat(
            [
                torch.cat([torch.diag(curved.to(p.dtype)), scaled], 1),
                torch.cat([scaled.T, torch.zeros(rows, rows, dtype=p.dtype, device=p.device)], 1),
            ]
        )
        right = torch.cat([p[free] * root, q])
        solution = (torch.linalg.pinv(matrix, hermitian=True, rtol=1e-13) @ right[:, None])[:, 0]
        error = (matrix @ solution - right).abs().max() / (right.abs().max() + unit)
        dw = torch.zeros_like(p)
        dw[free] = root * solution[: len(root)]
        return dw, solution[len(root) :], error


class Polish:
    """From an interior-point solution to the exact one."""

    def __init__(self, rows: LinearAlgebra, barriers: Barriers, regularizer: SeparableRegularizer, curved: int):
        self._rows, self._barriers, self._f, self._curved = rows, barriers, regularizer, curved
        inverts = type(regularizer).inverse_slope is not SeparableRegularizer.inverse_slope
        self._inverts = inverts and not isinstance(regularizer, Euclidean)
        self._steep = inverts and all(regularizer.steep)

    def __call__(self, problem: Problem, near: Iterate) -> Solution:
        """``accepted`` says where the answer satisfies the optimality conditions and is near the one it came from."""
        solution = self._guess(problem, near)
        weak = self._barriers.add(torch.zeros_like(near.w), near.z, signed=False) < _WEAK
        wrong = torch.where(weak, _WRONG, torch.inf)
        extended = near.w.shape[1] - self._rows.slacks > self._curved
        if extended:
            # Multipliers of auxiliary columns and their rows are rarely unique, so small signs mean nothing, ...
            wrong[:, self._curved :] = torch.inf
        solution = self._settle(problem, solution, wrong, near.w)
        slow = torch.nonzero(~solution.accepted).flatten()
        if slow.numel():
            part = solution.take(slow)
            self._newton(problem.take(slow), part, _MANY_ROUNDS)
            solution.put(slow, part)
        if extended and any(self._f.steep):
            # ... but those of entropies turn large where one bound too many is fixed: try with fewer, and keep what
            # has the better objective.
            for ratio in _FEWER:
                inwards = (-solution.side * self._force(problem, solution)).amax(1)
                again = torch.nonzero(inwards > _WRONG_AUXILIARY * problem.coldest[:, 0]).flatten()
                if not again.numel():
                    break
                there, close = problem.take(again), near.take(again)
                part = self._settle(there, self._guess(there, close, ratio), wrong[again], close.w)
                better = part.accepted & (self._gain(there, solution.take(again), part) > 0)
                solution.put(again[better], part.take(torch.nonzero(better).flatten()))
        distance = (solution.w - near.w)[:, : self._curved].abs().amax(1)
        lower, upper = problem.bounds.unbind(1)
        outside = torch.maximum(lower - solution.w, solution.w - upper).amax(1)
        nearby = distance <= _NEARBY * (1 + near.w[:, : self._curved].abs().amax(1))
        solution.accepted &= nearby & (outside <= 1e-10)
        return solution

    def _gain(self, problem: Problem, before: Solution, after: Solution) -> torch.Tensor:
        """By how much the second of two feasible points has the better objective, ``(batch,)``."""
        x, y = before.w[:, : self._curved], after.w[:, : self._curved]
        value = problem.linear[:, : self._curved] * (y - x)
        value = value - problem.temperature * (self._f.elementwise(y) - self._f.elementwise(x))
        return torch.where(before.accepted, value.sum(1), torch.inf)

    def _settle(self, problem: Problem, solution: Solution, wrong: torch.Tensor, near: torch.Tensor) -> Solution:
        """Newton steps and changes of the active set by turns."""
        todo = torch.arange(len(near), device=near.device)
        for _ in range(_CHANGES):
            part, there = solution.take(todo), problem.take(todo)
            self._newton(there, part)
            changed = self._change(there, part, wrong[todo], near[todo])
            solution.put(todo, part)
            if not bool(changed.any()):
                break
            todo = todo[changed]
        return solution

    def _guess(self, problem: Problem, near: Iterate, ratio: float = _RATIO) -> Solution:
        b = self._barriers
        closer = near.z > ratio * b.gaps(near.w, problem.ends)
        votes = b.add(torch.zeros_like(near.w), -closer.to(near.w.dtype)).sign()
        votes = torch.where(problem.pinned, -1.0, votes)
        accepted = torch.zeros(len(votes), dtype=torch.bool, device=votes.device)
        solution = Solution(near.w.clone(), near.y.clone(), votes, accepted)
        self._pin(problem, solution)
        return solution

    def _pin(self, problem: Problem, solution: Solution) -> None:
        lower, upper = problem.bounds.unbind(1)
        solution.w = torch.where(solution.side < 0, lower, torch.where(solution.side > 0, upper, solution.w))

    def _force(self, problem: Problem, solution: Solution) -> torch.Tensor:
        """u - t f'(x) - M' y: zero on free columns, the multiplier of the bound on others."""
        force = self._rows.force(problem.linear, solution.y)
        force[:, : self._curved] -= problem.temperature * self._f.slope(solution.w[:, : self._curved])
        return force

    def _newton(self, problem: Problem, solution: Solution, rounds: int = _ROUNDS) -> None:
        """Solve with the active set as it is, in place; judges the residuals."""
        t, curved = problem.temperature, self._curved
        free = solution.side == 0
        unit, coldest = torch.ones_like(t[:, 0]), problem.coldest
        for attempt in range(rounds + 1):
            p = torch.where(free, self._force(problem, solution), 0.0)
            if self._inverts:  # what x would be with these multipliers: where x is tiny, that may be far away
                x = solution.w[:, :curved]
                implied = self._f.inverse_slope(self._f.slope(x) + p[:, :curved] / t)
                distance = (implied - x).abs()
                if self._steep:  # no coordinate sticks to an end where its curvature is infinite
                    solution.w[:, :curved] = torch.where(free[:, :curved], implied, x)
                    p[:, :curved] = 0.0
                    distance = torch.zeros_like(distance)
            compliance = self._f.compliance(solution.w[:, :curved]) / t
            if not self._inverts:
                distance = (p[:, :curved] * compliance).abs()
            q = self._rows.residual(problem.right, solution.w)
            error = torch.cat([distance, p[:, curved:].abs() / coldest], 1)
            worst = torch.maximum(error.amax(1), largest(q) / (1 + largest(problem.right)))
            solution.accepted = worst <= _ACCEPTED
            if attempt == rounds or (attempt and bool((worst <= 10 * _EXACT).all())):
                break
            dw, dy, _ = ActiveSystem(self._rows, compliance, coldest, free).solve(p, q, unit, _NEWTON_REFINEMENTS)
            if self._inverts and not self._steep:
                x = solution.w[:, :curved]
                slope, curvature = self._f.slope(x), self._f.curvature(x)
                dw[:, :curved] = shorter_step(self._f, x, dw[:, :curved], slope, curvature) - x
            solution.w, solution.y = solution.w + dw, solution.y + dy

    def _change(self, problem: Problem, solution: Solution, wrong: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        """Fix columns that left the bounds, release those that pull inwards; which elements changed."""
        lower, upper = problem.bounds.unbind(1)
        free = solution.side == 0
        below, above = free & (solution.w < lower), free & (solution.w > upper)
        inwards = -solution.side * self._force(problem, solution) > wrong
        released = ~free & inwards & ~problem.pinned
        outside = torch.maximum(lower - solution.w, solution.w - upper).amax(1) > 1e-12
        changed = outside | released.any(1)
        side = torch.where(below, -1.0, torch.where(above, 1.0, torch.where(released, 0.0, solution.side)))
        solution.side = torch.where((changed[:, None] | below | above), side, solution.side)
        solution.w = torch.where(released, near, solution.w)  # not from the bound, where the curvature may be infinite
        self._pin(problem, solution)
        solution.accepted &= ~changed
        return changed
