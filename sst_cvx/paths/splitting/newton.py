"""Projections onto an intersection of polytopes by those onto each, P_i: Newton's method on the dual.

With w_1 + ... + w_m = 0, the points x_i = P_i(y + w_i) are one and the same, x, exactly where x is the projection of y:
the normals y + w_i - x sum to m (y - x). The w_i minimise the convex function

    Phi(w) = sum_i e_i(y + w_i),    e_i(z) = 1/2 |z|^2 - 1/2 |z - P_i(z)|^2,    grad e_i = P_i,

piecewise quadratic and once differentiable, whose gradient in {sum w = 0} is x_i less their mean, and whose Hessians
are made of the Jacobians J_i of the P_i: projectors onto the directions of faces. So a semismooth Newton's method
(Li, Swetits, "A Newton method for convex regression, data smoothing, and quadratic programming with bounded
constraints", 1993; Sun, "On piecewise quadratic Newton and trust region problems", 1997) ends once the faces are found:
where Dykstra's method, which is coordinate descent on this dual, goes on for hundreds of rounds. The systems are solved
by conjugate gradients, whose products are the parts' own backward passes.

Where the hulls have no common point, Phi has no minimum, and w grows along the distance between them. That is proven by
d_i = mean x - x_i: these sum to 0, and so sum_i max_{v in X_i} <d_i, v> < 0 leaves no x with <d_i, x> at most that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sst_cvx.errors import Elements
from sst_cvx.paths.splitting.parts import Part

_ROUNDING = 1e-14  # of |y| + |w| + the set's size: a distance between the x_i that is rounding
_CLOSE = 1e-9  # of the set's size: the same where a part's own solver has no more digits
_STEPS = 200
_PATIENCE = 4.0
_DAMPING = (1e-12, 0.1, 1.0)  # least, first, largest: of the Hessian, times |r| / the set's size
_APART = 1e-7  # of the set's size: a distance at which hulls may be told to be disjoint

#: Of the stacked parts ``(parts, rows, size)``.
Linear = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Evaluation:
    """Points x_i = P_i(z_i) of some rows, ``(parts, rows, size)``, and v -> J_i v_i."""

    x: torch.Tensor
    along: Linear


@dataclass
class Solved:
    """Of a whole batch: w, the points there, the steps that it took, and why rows failed (0 where they did not)."""

    w: torch.Tensor
    at: Evaluation
    steps: torch.Tensor
    failed: torch.Tensor  # (rows,), 1: no convergence, 2: the hulls have no common point


def centred(d: torch.Tensor) -> torch.Tensor:
    """Less the mean over the parts."""
    return d - d.mean(0)


def evaluate(parts: Sequence[Part], z: torch.Tensor, elements: Elements, steps: torch.Tensor | None) -> Evaluation:
    """The parts' projections, with what their derivatives need, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [(part.clone() if part.is_inference() else part.detach()).requires_grad_() for part in z]
        points = [part.nearest(leaf, elements, steps) for part, leaf in zip(parts, leaves, strict=True)]

    def along(v: torch.Tensor) -> torch.Tensor:
        moving = [i for i, x in enumerate(points) if x.requires_grad]
        found = torch.zeros_like(v)
        if moving:
            given = [v[i] for i in moving]
            kept = torch.autograd.grad([points[i] for i in moving], [leaves[i] for i in moving], given, True)
            for i, g in zip(moving, kept, strict=True):
                found[i] = g
        return found

    return Evaluation(torch.stack([x.detach() for x in points]), along)


@dataclass
class _Rows:
    """What runs: steps d from w, of which each tries a length, whose slope must not rise too far above 0."""

    rows: torch.Tensor
    w: torch.Tensor
    d: torch.Tensor
    start: torch.Tensor  # the slope at w
    length: torch.Tensor
    damping: torch.Tensor
    distance: torch.Tensor  # between the x_i at w
    patience: torch.Tensor  # steps that may yet bring them no nearer

    def take(self, which: torch.Tensor) -> _Rows:
        """Some of them."""
        parts = (self.start, self.length, self.damping, self.distance, self.patience)
        return _Rows(self.rows[which], self.w[:, which], self.d[:, which], *(part[which] for part in parts))

    @property
    def ahead(self) -> torch.Tensor:
        return self.w + self.length[:, None] * self.d


class Newton:
    """Of one batch of ``(rows, size)`` points y, each element at its own pace.

    Args:
        unit: the size of the sets.
    """

    def __init__(
        self, parts: Sequence[Part], y: torch.Tensor, unit: float, elements: Elements, steps: torch.Tensor | None
    ):
        self._parts, self._y, self._unit, self._elements, self._steps = parts, y, unit, elements, steps

    def _at(self, w: torch.Tensor, rows: torch.Tensor) -> Evaluation:
        everyone = len(rows) == len(self._y)
        y, elements = (self._y, self._elements) if everyone else (self._y[rows], self._elements.take(rows))
        return evaluate(self._parts, y + w, elements, self._steps)

    def solve(self, start: torch.Tensor | None = None) -> Solved:
        """From w = ``start``, of sum 0, or from 0."""
        y = self._y
        everyone = torch.arange(len(y), device=y.device)
        zero, one = y.new_zeros(len(self._parts), *y.shape), y.new_ones(len(y))
        now = _Rows(
            everyone,
            zero if start is None else start,
            zero,
            0 * one,
            one,
            _DAMPING[1] * one,
            torch.inf * one,
            _PATIENCE * one,
        )
        whole, steps, failed = zero.clone(), torch.zeros_like(everyone), torch.zeros_like(everyone)
        for step in range(_STEPS):
            at = self._at(now.ahead, now.rows)
            r = centred(at.x)
            now, accepted, running = self._step(now, r)
            steps[now.rows[running]] += 1
            whole[:, now.rows] = now.w
            if step % 8 == 7:
                apart = self._are_apart(r, running & (now.distance > _APART * self._unit))
                failed[now.rows[apart]], running = 2, running & ~apart
            if not bool(running.any()):
                break
            accepted = accepted & running
            if bool(accepted.any()):
                now = self._turn(now, at, r, accepted)
            now.d = now.d * running[:, None]  # what has ended stays as long as it costs little
            now = now.take(running) if 2 * int(running.sum()) < len(running) else now
        else:
            failed[now.rows[running]] = 1  # pyright: ignore[reportPossiblyUnbound]
        if len(now.rows) < len(y) or not torch.equal(now.ahead, now.w):
            at = self._at(whole, everyone)
        return Solved(whole, at, steps, failed)  # pyright: ignore[reportPossiblyUnbound]

    def _step(self, now: _Rows, r: torch.Tensor) -> tuple[_Rows, torch.Tensor, torch.Tensor]:
        """With what was tried accepted, or shortened by a secant of the slope; which were, and which have not ended.

        The damping follows: less of it where the whole step was too short, more where it was too long.
        """
        least, _, most = _DAMPING
        slope, start = _inner(r, now.d), now.start
        accepted = slope <= -0.5 * start
        secant = (start / (start - slope)).nan_to_num(nan=1.0).clamp(0.001, 0.6)
        whole, short = now.length == 1, slope < 0.5 * start
        factor = torch.where(whole, torch.where(short, 0.03, 0.3), 2 / now.length)
        damping = torch.where(accepted, now.damping * factor, now.damping).clamp(least, most)
        distance = torch.where(accepted, _norm(r), now.distance)
        w = torch.where(accepted[:, None], now.ahead, now.w)
        length = torch.where(accepted, 1.0, now.length * secant)
        size = self._unit + self._y[now.rows].abs().amax(1) + w.abs().amax((0, 2))
        close = distance <= _CLOSE * self._unit
        patience = now.patience - (accepted & close & (distance > 0.5 * now.distance)).to(now.patience.dtype)
        stalled = (patience < 0) & close
        lost = ~accepted & close & (length < 1e-3)
        running = ~(accepted & (distance <= _ROUNDING * size)) & ~stalled & ~lost
        d = torch.where(accepted[:, None], 0.0, now.d)
        return _Rows(now.rows, w, d, start, length, damping, distance, patience), accepted, running

    def _turn(self, now: _Rows, at: Evaluation, r: torch.Tensor, accepted: torch.Tensor) -> _Rows:
        """New directions for those that were accepted."""
        shift = now.damping * (now.distance / self._unit).clamp(max=1.0)
        right = torch.where(accepted[:, None], -r, 0.0)
        d = conjugate_gradients(at.along, right, shift, (1e-6 * now.distance).clamp(min=1e-15 * self._unit))
        now.d = torch.where(accepted[:, None], d, now.d)
        now.start = torch.where(accepted, _inner(r, d), now.start)
        return now

    def _are_apart(self, r: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Whether these rows prove that the hulls have no common point."""
        if not bool(asked.any()):
            return asked
        total, size = torch.zeros_like(r[0, :, 0]), torch.zeros_like(r[0, :, 0])
        for part, own in zip(self._parts, -r, strict=True):
            v = part.furthest(own)
            total, size = total + (own * v).sum(1), size + (own.abs() * v.abs()).sum(1)
        return asked & (total < -1e-9 * size) & (total < -1e-2 * _norm(r) ** 2)


def conjugate_gradients(
    apply: Linear, right: torch.Tensor, shift: torch.Tensor | float, goal: torch.Tensor
) -> torch.Tensor:
    """s, of sum 0 over the parts, with (C apply + shift) s = right but for a residual of norm ``goal``, ``(rows,)``,
    each row by itself; C takes off the mean. ``apply`` is positive semidefinite."""
    shift = shift[:, None] if isinstance(shift, torch.Tensor) else shift
    s, rest, p = torch.zeros_like(right), right, right
    square = _inner(rest, rest)
    for _ in range(right.shape[0] * right.shape[2] + 10):
        running = square > goal**2
        if not bool(running.any()):
            break
        image = centred(apply(p)) + shift * p
        curvature = _inner(p, image)
        step = torch.where(running & (curvature > 0), square / curvature.clamp(min=1e-300), 0.0)[:, None]
        s, rest = s + step * p, centred(rest - step * image)
        new = _inner(rest, rest)
        p = rest + torch.where(running, new / square.clamp(min=1e-300), 0.0)[:, None] * p
        square = torch.where(running, new, square)
    return centred(s)


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By row, over all parts."""
    return (a * b).sum((0, 2))


def _norm(a: torch.Tensor) -> torch.Tensor:
    return _inner(a, a).sqrt()
