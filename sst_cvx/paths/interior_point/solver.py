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

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch

from sst_cvx.paths.interior_point.dense import LinearAlgebra, Rows
from sst_cvx.paths.interior_point.sparse import SparseRows, prefers_sparse
from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.regularizers import Euclidean, SeparableRegularizer

_START = 0.5  # temperature to start entropies at, relative to the range of the utilities
_FLOOR = 0.05  # of the barrier, relative to the temperature, until the target temperature is reached
_FLOOR_INFEASIBLE = 0.01  # the same, times the infeasibility, always
# Curvature of auxiliary columns in the Newton system only. With too little of it, rows in which all columns are tiny
# are lost in the elimination, which entropies notice; others need ever longer steps of auxiliary columns.
_PROXIMAL, _PROXIMAL_STEEP = 1e-9, 1e-3
_REFINEMENTS = 1  # of Newton steps with auxiliary columns
_IMMOVABLE = 1e100  # curvature of pinned columns
_LEAST = 1e-17  # of the barrier
_NEAREST = 1e-16  # distance that coordinates keep from a bound where phi' is infinite
_LOOSE = 1e-8  # of gap and infeasibility, relative to t; for a quadratic f the rest is one linear solve
_TIGHT, _TIGHTER = 1e-10, 1e-12  # for other f; where active bounds are hardest to tell
_STEP = 0.995  # fraction of the way to the boundary


@dataclass(frozen=True)
class Schedule:
    """How patient a run is: iterations, factor on the temperature, and infeasibility up to which it is lowered."""

    iterations: int
    cooling: float
    gate: float


BRISK = Schedule(50, 0.4, 0.1)
PATIENT = (Schedule(150, 0.7, 1e-3), Schedule(300, 0.85, 1e-4))  # for the few entropic problems that BRISK gives up


class Batched:
    """A dataclass of tensors whose first dimension is the batch."""

    def take(self, index: torch.Tensor) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))  # type: ignore[arg-type]

    def put(self, index: torch.Tensor, other: Self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            getattr(self, f.name)[index] = getattr(other, f.name)


def largest(x: torch.Tensor) -> torch.Tensor:
    """Largest absolute entry of each element, ``(batch,)``; 0 where there are none."""
    return x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))


def shorter_step(
    f: SeparableRegularizer, x: torch.Tensor, dx: torch.Tensor, slope: torch.Tensor, curvature: torch.Tensor
) -> torch.Tensor:
    """x moved by the shorter of the Newton steps in x and in phi'(x), which have the same sign."""
    newton, curved = x + dx, f.inverse_slope(slope + curvature * dx)
    return torch.where(dx < 0, torch.maximum(newton, curved), torch.minimum(newton, curved))


@dataclass
class Problem(Batched):
    """A batch in scaled units.

    ``linear``: c ``(batch, columns)``, zero beyond the event; ``temperature``: ``(batch, curved)``, times the
    regularizer's weights; ``right``: r ``(batch, rows)``; ``bounds``: lower and upper ``(batch, 2, columns)``;
    ``ends``: those of them with a barrier ``(batch, barriers)``; ``coldest``: smallest temperature ``(batch, 1)``;
    ``pinned``: columns whose bounds coincide, at parameter values that leave them no room ``(batch, columns)``.
    """

    linear: torch.Tensor
    temperature: torch.Tensor
    right: torch.Tensor
    bounds: torch.Tensor
    ends: torch.Tensor
    coldest: torch.Tensor
    pinned: torch.Tensor


@dataclass
class Iterate(Batched):
    """Columns w, multipliers y of rows and z of barriers, and the factor on the target temperature."""

    w: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor
    heat: torch.Tensor


class Barriers:
    """The bounds that get a barrier, as flat lists: all finite ones but those where phi' is infinite."""

    def __init__(self, form: StandardForm, regularizer: SeparableRegularizer, device: torch.device):
        ends = np.stack([form.lower, form.upper])
        present = np.isfinite(ends)
        for side, (end, steep) in enumerate(zip(regularizer.domain, regularizer.steep, strict=True)):
            if steep:
                present[side, : form.curved] &= ends[side, : form.curved] != end
        side, column = np.nonzero(present)
        self.side, self.column = (torch.as_tensor(a, device=device) for a in (side, column))
        self.sign = 1.0 - 2.0 * self.side.double()
        self.count = column.size
        self._lower = int((side == 0).sum())
        # Bounds of neighbouring columns are slices, which are faster than lists of columns.
        halves = [column[side == i] for i in (0, 1)]
        whole = all(np.array_equal(half, half[:1] + np.arange(half.size)) for half in halves)
        self._slices = [slice(int(h[0]), int(h[-1]) + 1) if h.size else slice(0, 0) for h in halves] if whole else None

    def ends(self, bounds: torch.Tensor) -> torch.Tensor:
        """The bounds with a barrier, times their sign, ``(batch, count)``."""
        return self.sign * bounds[:, self.side, self.column]

    def along(self, w: torch.Tensor) -> torch.Tensor:
        """Columns times the sign of their barriers, ``(batch, count)``: the change of the gaps with w."""
        if self._slices is None:
            return self.sign * w[:, self.column]
        lower, upper = (w[:, part] for part in self._slices)
        return lower if self._lower == self.count else torch.cat([lower, -upper], 1)

    def gaps(self, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Distances to the bounds, ``(batch, count)``, positive inside."""
        return self.along(w) - ends

    def add(self, w: torch.Tensor, values: torch.Tensor, signed: bool = True) -> torch.Tensor:
        """w plus values (times their sign) in their columns."""
        if self._slices is None:
            return w.index_add(1, self.column, self.sign * values if signed else values)
        (low, high), sum_ = self._slices, w.clone()
        sum_[:, low] += values[:, : self._lower]
        if self._lower < self.count:
            sum_[:, high].add_(values[:, self._lower :], alpha=-1 if signed else 1)
        return sum_


class InteriorPoint:
    """The solver for one presolved hull and regularizer, on one device."""

    def __init__(self, form: StandardForm, regularizer: SeparableRegularizer, device: torch.device):
        self.rows: LinearAlgebra = SparseRows(form, device) if prefers_sparse(form) else Rows(form, device)
        self.barriers = Barriers(form, regularizer, device)
        self._f, self._curved = regularizer, form.curved
        self._refinements = _REFINEMENTS if form.auxiliary else 0  # where the Newton system is worst conditioned
        self._steep = any(regularizer.steep)
        self.may_pin = form.start is None  # where bounds depend on parameters
        self._tolerance = _LOOSE if isinstance(regularizer, Euclidean) else _TIGHT
        if self._steep and form.auxiliary:
            self._tolerance = _TIGHTER
        # Steep ends are not touched but approached: from nearer than this, a coordinate takes too long to come back.
        ends = zip(regularizer.domain, regularizer.steep, (_NEAREST, -_NEAREST), strict=True)
        self._inside = tuple(end + distance if steep else end for end, steep, distance in ends)

    def solve(self, problem: Problem, start: torch.Tensor) -> tuple[Iterate, torch.Tensor]:
        """Solutions to about the root of machine precision, for Newton to finish; and which elements got there."""
        answer, converged = self._run(problem, start, BRISK)
        for schedule in PATIENT if self._steep else ():
            again = torch.nonzero(~converged).flatten()
            if not again.numel():
                break
            answer_again, converged[again] = self._run(problem.take(again), start[again], schedule)
            answer.put(again, answer_again)
        return answer, converged

    def _run(self, problem: Problem, start: torch.Tensor, schedule: Schedule) -> tuple[Iterate, torch.Tensor]:
        """Elements leave the batch as they arrive."""
        answer = self._first(problem, start)
        converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        todo = torch.arange(len(start), device=start.device)
        now = answer
        for iteration in range(schedule.iterations):
            before, late = now, iteration > 0.6 * schedule.iterations
            now, arrived = self._iterate(problem, before, schedule, _LOOSE if late else self._tolerance)
            if not bool(arrived.any()):
                continue
            rest = torch.nonzero(~arrived).flatten()
            answer.put(todo[arrived], before.take(arrived))
            converged[todo[arrived]] = True
            if not rest.numel():
                return answer, converged
            todo, now, problem = todo[rest], now.take(rest), problem.take(rest)
        return answer, converged

    def _first(self, problem: Problem, start: torch.Tensor) -> Iterate:
        gaps = self.barriers.gaps(start, problem.ends)
        target = problem.temperature.amax(1, keepdim=True)
        heat = (_START / target).clamp(min=1.0) if self._steep else torch.ones_like(target)
        return Iterate(start.clone(), torch.zeros_like(problem.right), 0.3 / gaps, heat)

    def _iterate(
        self, problem: Problem, now: Iterate, schedule: Schedule, tolerance: float
    ) -> tuple[Iterate, torch.Tensor]:
        """One predictor-corrector step, and which elements had arrived before it."""
        curved, b = self._curved, self.barriers
        x, t = now.w[:, :curved], problem.temperature
        if self._steep:
            t = t * now.heat
        slope, curvature = self._f.slope(x), self._f.curvature(x)
        # base: minus the gradient of the Lagrangian, without barriers
        base = self.rows.force(problem.linear, now.y)
        base[:, :curved].addcmul_(t, slope, value=-1)
        primal = self.rows.residual(problem.right, now.w)
        infeasible = largest(primal)[:, None]
        gaps = b.gaps(now.w, problem.ends)
        pairs = gaps * now.z
        arrived = self._arrived(problem, now, base, slope, curvature, infeasible, pairs, tolerance)
        if bool(arrived.all()):
            return now, arrived

        hessian = torch.full_like(base, _PROXIMAL_STEEP if self._steep else _PROXIMAL)
        hessian[:, :curved].addcmul_(t, curvature)
        if self.may_pin:
            hessian = torch.where(problem.pinned, _IMMOVABLE, hessian)
        if not b.count:
            dw, dy = self.rows.factor(hessian.reciprocal()).solve(base, primal)
            dz, step = now.z, 1.0
        else:
            inverse = gaps.reciprocal()
            factor = self.rows.factor(b.add(hessian, now.z * inverse, signed=False).reciprocal())
            dw, dy = factor.solve(base, primal)
            center = self._center(pairs, b.along(dw) * inverse, now, t, infeasible) * inverse
            dw, dy = factor.solve(b.add(base, center), primal)
            for _ in range(self._refinements):
                more, dy_more = factor.solve(torch.zeros_like(dw), self.rows.residual(primal, dw))
                dw, dy = dw + more, dy + dy_more
            relative = b.along(dw) * inverse
            dz = center - now.z * (1 + relative)
            furthest = torch.maximum(-relative, -dz / now.z).amax(1, keepdim=True)
            step = (_STEP / furthest.clamp(min=1e-30)).clamp(max=1.0)

        w = now.w + step * dw
        heat = now.heat
        if self._steep:
            moved = shorter_step(self._f, x, step * dw[:, :curved], slope, curvature).clamp(*self._inside)
            w[:, :curved] = torch.where(problem.pinned[:, :curved], x, moved) if self.may_pin else moved
            heat = torch.where(infeasible < schedule.gate, (heat * schedule.cooling).clamp(min=1.0), heat)
        return Iterate(w, now.y + step * dy, now.z + step * dz, heat), arrived

    def _center(
        self, pairs: torch.Tensor, relative: torch.Tensor, now: Iterate, t: torch.Tensor, infeasible: torch.Tensor
    ) -> torch.Tensor:
        """Mehrotra's corrected target for the products of gaps and multipliers."""
        mu = pairs.mean(1, keepdim=True)
        low, high = relative.aminmax(dim=1, keepdim=True)
        step = torch.maximum(-low, 1 + high).clamp(min=1.0).reciprocal()
        reached = (pairs * (1 + step * relative) * (1 - step * (1 + relative))).mean(1, keepdim=True)
        target = (reached / mu).clamp(0, 1) ** 3 * mu
        if self._steep:
            floor = torch.maximum(_FLOOR_INFEASIBLE * infeasible.clamp(max=1.0), _FLOOR * (now.heat > 1))
            target = torch.maximum(target, t.amax(1, keepdim=True) * floor)
        target = torch.maximum(target, _LEAST * now.heat)
        return target + pairs * relative * (1 + relative)

    def _arrived(
        self,
        problem: Problem,
        now: Iterate,
        base: torch.Tensor,
        slope: torch.Tensor,
        curvature: torch.Tensor,
        infeasible: torch.Tensor,
        pairs: torch.Tensor,
        tolerance: float,
    ) -> torch.Tensor:
        """Residuals small enough for the active set to be known, ``(batch,)``."""
        t, curved = problem.coldest, self._curved
        arrived = (
            (pairs.sum(1, keepdim=True) <= (tolerance * t).clamp(min=1e-13))
            & (infeasible <= 10 * tolerance)
            & (now.heat == 1)
        )
        if not bool(arrived.any()):
            return arrived[:, 0]
        dual = self.barriers.add(base, now.z) if self.barriers.count else base
        if self.may_pin:
            dual = torch.where(problem.pinned, 0.0, dual)
        error = dual.abs()
        if self._steep:  # a residual counts by what x would be without it: where x is tiny, that may be far away
            x = self._f.inverse_slope(slope + dual[:, :curved] / (problem.temperature * now.heat))
            error[:, :curved] = t * (x - now.w[:, :curved]).abs()
        else:
            error[:, :curved] /= curvature.clamp(min=1.0)
        return (arrived & (error.amax(1, keepdim=True) <= (1e-6 * t).clamp(min=1e-13)))[:, 0]
