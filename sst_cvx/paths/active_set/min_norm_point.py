"""Projections onto the hull of a finite set that has only an exact argmax (SparseMAP).

The soft argmax of f = 1/2 |x|^2 is the projection of y = u / t onto conv(X). The min-norm-point algorithm (Wolfe,
"Finding the nearest point in a polytope", 1976) writes it as a mixture of a few affinely independent vertices, the
corral: solve for the nearest point of the corral's affine hull; drop the vertex whose weight would turn negative first;
if there is none, ask the argmax for the best vertex in direction g = y - x and add it, or stop where it gains nothing,
that is where the Frank-Wolfe gap max_v <g, v - x> vanishes. Finite, and here batched: every element adds or drops one
vertex a step. As a soft argmax with its Jacobian: Niculae, Martins, Blondel, Cardie, "SparseMAP" (ICML 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sst_cvx import native
from sst_cvx.errors import SolveError
from sst_cvx.paths.active_set.corral import INDEPENDENT, Corral, weights_towards
from sst_cvx.paths.active_set.sparse_corral import SparseCorral
from sst_cvx.paths.iterations import count

_GAP = 1e-14  # of sum (|g| + |x|) |v - x|: a gap that is rounding error
_ACCEPTED = 1e-10  # the same where rounding stops all progress
_STALLS = 8  # steps without progress until that is decided
_PROBE = 1e-8  # perturbation that tells the vertices of a face apart, relative to the largest |y|
_FACE = 1e-10  # loss <g, x - v> up to which v is on the face, in units as for the gap

#: (directions, which elements of the batch they belong to) -> best vertices
Oracle = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def nearest_points(y: torch.Tensor, argmax: Oracle) -> torch.Tensor:
    """Projections of ``(batch, n)`` points, float64, onto the hull of what ``argmax`` returns. Differentiable, twice.

    Raises:
        SolveError: by rows: no progress although the gap has not vanished, or an argmax that is not exact.
    """
    return _Projection.apply(y, argmax)  # type: ignore[return-value]


class _Projection(torch.autograd.Function):
    """Nearest points of conv(X) to ``(batch, n)`` points, float64."""

    # Let F = { v in X : <g, v> = max } be the face exposed by g = y - x. While x stays in its relative interior, x(y)
    # is the nearest point of its affine hull, so dx = B B' dy, B an orthonormal basis of the directions of F. If
    # vertices v_i span F affinely, B B' w = sum_i d_i v_i with the d of sum 0 that brings it nearest to w: the solve of
    # the forward. Symmetric, and locally constant in y: only the argument w is differentiated again.

    @staticmethod
    def forward(ctx: Any, y: Any, argmax: Oracle) -> Any:
        x, corral = _nearest(argmax, y, complete=ctx.needs_input_grad[0])
        if corral is not None:
            ctx.save_for_backward(corral.vertices, corral.inverse)
        return x

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        vertices, inverse = ctx.saved_tensors
        along = torch.zeros_like(cotangents[0])
        for _ in range(2):  # the second time for the digits that the inverse lacks
            d = weights_towards(vertices, inverse, cotangents[0] - along)
            along = along + (d[:, None] @ vertices)[:, 0]
        return along, None


def _nearest(argmax: Oracle, y: torch.Tensor, complete: bool) -> tuple[torch.Tensor, Corral | None]:
    """Nearest points ``(batch, n)``, and their corrals, with ``complete`` extended until they span the face.

    Inside, coordinates are relative to one vertex and in units of the set's size: tolerances are pure numbers.
    """
    everyone = torch.arange(len(y), device=y.device)
    origin = argmax(y, everyone)
    unit = (origin - argmax(-y, everyone)).abs().amax(1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)

    def oracle(direction: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
        everyone = len(elements) == len(origin)  # each once, in order: no copies
        start, size = (origin, unit) if everyone else (origin[elements], unit[elements])
        return (argmax(direction, elements) - start).div_(size)

    target = (y - origin) / unit
    if native.serves(y):
        sparse, x = _solved_by_loops(oracle, target)
        if complete:
            _complete_face(oracle, target, sparse, x)
        return origin + unit * x, sparse.dense() if complete else None
    corral = _Wolfe(oracle, target).solve()
    if complete:
        _complete_face(oracle, target, corral, corral.point())
    return origin + unit * corral.point(), corral


def _solved_by_loops(oracle: Oracle, target: torch.Tensor) -> tuple[SparseCorral, torch.Tensor]:
    """The same algorithm by compiled loops, of which each moves until it has to ask; and the points."""
    from sst_cvx.paths.active_set.native import FINISHED, REFUSED, STUCK, WORSE, move, offer

    batch, n = target.shape
    corral, x, goal = SparseCorral(batch, n), target.new_empty(batch, n), native.array(target)  # x: written in place
    steps, stalls, newest = (np.full(batch, start) for start in (0, 0, -1))
    lost, limit, limits = np.empty(batch, np.bool_), 100 + 20 * n, (_GAP, _ACCEPTED, _STALLS, INDEPENDENT)
    running = np.arange(batch)
    while len(running):
        rows = running
        while len(rows):
            state = (*corral.vertices, corral.inverse, corral.weights, corral.used, newest)
            move(rows, goal, *state, steps, limit, native.array(x), lost)
            if (steps[rows] >= limit).any():
                raise _not_converged(torch.from_numpy(rows[steps[rows] >= limit]))
            rows = rows[lost[rows]]
            stalls[rows] += 1
            corral.refresh(torch.from_numpy(rows))
        elements = torch.from_numpy(running)
        v, told = oracle(target[elements] - x[elements], elements), np.empty(len(running), np.int64)
        corral.reserve()
        while offer(
            running,
            native.array(v),
            goal,
            native.array(x),
            *corral.vertices,
            corral.inverse,
            corral.used,
            newest,
            stalls,
            limits,
            told,
        ):
            corral.widen()
        if (told == WORSE).any():
            raise _not_exact(elements[told == WORSE])
        if (told == STUCK).any():
            raise _not_converged(elements[told == STUCK])
        refused = running[told == REFUSED]
        stalls[refused] += 1
        if len(refused):
            corral.refresh(torch.from_numpy(refused))
        running = running[told != FINISHED]
    count(torch.from_numpy(steps))
    return corral, x


class _Wolfe:
    """The min-norm-point algorithm; every element that still runs adds or drops one vertex a step."""

    def __init__(self, oracle: Oracle, target: torch.Tensor):
        batch = len(target)
        self._oracle, self._target = oracle, target
        self._done = Corral.at_origin(batch, target)
        self._corral = Corral.at_origin(batch, target)  # of those that run
        self._running = torch.arange(batch, device=target.device)
        self._stalls = torch.zeros_like(self._running)
        self._newest = torch.full_like(self._running, -1)  # the slot filled last, -1 if the vertex was not taken

    def solve(self) -> Corral:
        steps = torch.zeros_like(self._running)
        for _ in range(100 + 20 * self._target.shape[1]):
            if not self._running.numel():
                count(steps)
                return self._done
            steps[self._running] += 1
            blocked = self._move()
            finished = torch.zeros_like(blocked)
            asked = torch.nonzero(~blocked).flatten()
            if asked.numel():
                finished[asked] = self._ask(asked.to(self._running.device))
            if bool(finished.any()):
                self._put_aside(finished)
        raise _not_converged(self._running)

    def _move(self) -> torch.Tensor:
        """Towards the nearest point of the affine hull, as far as weights stay positive; True where one vanished, on
        the host, which reads once a step here, once in ``_ask`` and once in ``Corral.add``."""
        corral = self._corral
        change = corral.towards(self._target[self._running] - corral.point())
        leaving = corral.used & (corral.weights + change <= 0)
        reach = torch.where(leaving, corral.weights / -change.clamp(max=-1e-300), torch.inf)
        step, slot = reach.min(1)
        corral.weights += step.clamp(max=1.0)[:, None] * change
        corral.weights /= corral.weights.sum(1, keepdim=True)  # always a mixture, whatever the digits of the inverse
        gone = leaving.any(1)
        blocked, undone = torch.stack([gone, gone & (slot == self._newest)]).cpu()
        rows = torch.nonzero(blocked).flatten().to(slot.device)
        if rows.numel():
            corral.drop(rows, slot[rows])
            self._stall(torch.nonzero(undone).flatten().to(slot.device))
        return blocked

    def _ask(self, rows: torch.Tensor) -> torch.Tensor:
        """Add the best vertex in direction g = y - x, or find that none gains; True where that is so, on the host."""
        elements = self._running[rows]
        x = self._corral.point()[rows]
        g = self._target[elements] - x
        v = self._oracle(g, elements)
        gap, unit = _gap(g, x, v)
        over = self._stalls[rows] >= _STALLS
        full = self._corral.used.all(1).any().expand(len(rows))
        tests = [gap < -_ACCEPTED * unit, over & (gap > _ACCEPTED * unit), (gap <= _GAP * unit) | over, full]
        worse, stuck, finished, full = torch.stack(tests).cpu()
        if bool(worse.any()):
            raise _not_exact(elements[worse])
        if bool(stuck.any()):
            raise _not_converged(elements[stuck])
        more = rows[~finished]
        self._newest[more], taken = self._corral.take(more, v[~finished], bool(full[0]))
        self._stall(more[~taken])
        return finished

    def _stall(self, rows: torch.Tensor) -> None:
        """No progress: the inverse may have lost digits."""
        if rows.numel():
            self._stalls[rows] += 1
            self._corral.refresh(rows)

    def _put_aside(self, finished: torch.Tensor) -> None:
        device = self._running.device
        over, rest = (torch.nonzero(which).flatten().to(device) for which in (finished, ~finished))
        self._done.put(self._running[over], self._corral.select(over))
        self._corral = self._corral.select(rest)
        self._running, self._stalls, self._newest = self._running[rest], self._stalls[rest], self._newest[rest]


def _gap(g: torch.Tensor, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """<g, v - x>, and the size of its terms, which rounding errors are relative to; so are those of v itself."""
    terms = v - x
    return (g * terms).sum(1), ((g.abs() + x.abs() + 1.0) * (terms.abs() + 0.01)).sum(1)


def _not_exact(elements: torch.Tensor) -> SolveError:
    return SolveError(
        "argmax is not exact for {elements}: it returned a vertex of less value than one it had returned before. The "
        "active-set path needs an exact argmax, in float64.",
        elements.tolist(),
    )


def _not_converged(elements: torch.Tensor) -> SolveError:
    return SolveError(
        "the min-norm-point algorithm makes no progress for {elements}, although the Frank-Wolfe gap has not vanished. "
        "Is argmax exact, and the set finite? Utilities / temperature may also be too large for float64.",
        elements.tolist(),
    )


def _complete_face(oracle: Oracle, target: torch.Tensor, corral: Corral | SparseCorral, points: torch.Tensor) -> None:
    """Add vertices of weight 0 until the corral spans the face F that g = y - x exposes.

    For almost every y it does already: the nearest point of aff(F) to y lies in no smaller simplex. Ties (all utilities
    equal, say) are the exceptions that people meet. Take a random r orthogonal to all directions spanned so far, and
    the best vertices for g + eps r and g - eps r: for small eps these are the vertices of F furthest along r and -r.
    Unless both lie in the affine hull of the corral, one adds a direction. If both do, then F has no extent along r,
    which for a random r means, almost surely, that the corral spans F. So the number of rounds is that of missing
    directions plus one.

    The projector on F is the Jacobian where x lies in the relative interior of F. At other points (kinks) there is no
    Jacobian; the projector is then the limit of those at nearby points, moved inside along F, where it is. Vertices
    that lose less than ``_FACE`` count as on F; others that lose less than ``_PROBE`` may hide some (a kink so near).
    """
    left = torch.arange(len(target), device=target.device)
    generator = torch.Generator().manual_seed(0)
    while left.numel():
        x = points[left]
        g = target[left] - x
        r = torch.randn(target.shape[1], generator=generator, dtype=torch.float64, device="cpu")
        r = corral.beside(left, r.to(target.device).expand_as(x))
        step = _PROBE * (1 + target[left].abs().amax(1, keepdim=True)) * r / r.norm(dim=1, keepdim=True).clamp(min=1e-9)
        found = torch.zeros(len(left), dtype=torch.bool, device=left.device)
        for v in oracle(torch.cat([g + step, g - step]), left.repeat(2)).split(len(left)):
            gap, unit = _gap(g, x, v)
            new = torch.nonzero(gap >= -_FACE * unit).flatten()
            found[new] |= corral.add(left[new], v[new]) >= 0
        left = left[found]
    corral.refresh(torch.arange(len(target), device=target.device))
