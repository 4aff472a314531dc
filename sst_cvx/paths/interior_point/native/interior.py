"""Mehrotra's method for one element, as ``..interior``."""

from __future__ import annotations

from math import isfinite

from sst_cvx.paths.interior_point.native import layout as at
from sst_cvx.paths.interior_point.native import phi
from sst_cvx.paths.interior_point.native.inner import inner
from sst_cvx.paths.interior_point.native.systems import (
    add,
    copy,
    dual_residual,
    factor,
    fill,
    larger,
    residual,
    solve,
)


@inner
def run(s, schedule):
    """From NEAR, in place; the steps that it took, negative if it did not arrive.

    ``schedule``: iterations, cooling, gate.
    """
    target = 0.0
    for i in range(s.events):
        target = max(target, s.c[at.TEMPERATURE, i])
    factor_ = max(s.k[at.FIRST_TEMPERATURE] / target, 1.0) if s.k[at.STEEP] != 0.0 else 1.0
    fill(s.r[at.NEAR_Y], 0.0)
    for b in range(s.b.shape[1]):
        s.b[at.Z, b] = s.k[at.FIRST_BARRIER] / (s.b[at.SIGN, b] * s.c[at.NEAR, s.barrier[b]] - s.b[at.ENDS, b])
    iterations = int(schedule[0])
    for iteration in range(iterations):
        tolerance = s.k[at.LOOSE] if iteration > s.k[at.LATE] * iterations else s.k[at.ARRIVED]
        infeasible = residuals(s, factor_)
        if factor_ == 1.0 and _arrived(s, infeasible, tolerance):
            return iteration
        if not isfinite(infeasible):
            break
        step = _direction(s, infeasible, factor_, factor_ * target)
        if not step > 0.0:
            break
        _move(s, step)
        if s.k[at.STEEP] != 0.0 and infeasible < schedule[2]:
            factor_ = max(factor_ * schedule[1], 1.0)
    return -iterations


@inner
def residuals(s, factor_):
    """Slopes, curvatures, residuals and gaps into ``s``; the largest primal residual."""
    dual_residual(s, s.c[at.LINEAR], s.r[at.NEAR_Y], s.c[at.DUAL])
    for i in range(s.events):
        s.c[at.SLOPE, i] = phi.slope(s.k[at.KIND], s.k[at.ALPHA], s.c[at.NEAR, i])
        s.c[at.CURVATURE, i] = phi.curvature(s.k[at.KIND], s.k[at.ALPHA], s.c[at.NEAR, i])
        s.c[at.DUAL, i] -= factor_ * s.c[at.TEMPERATURE, i] * s.c[at.SLOPE, i]
    residual(s, s.r[at.RIGHT], s.c[at.NEAR], s.r[at.PRIMAL])
    for b in range(s.b.shape[1]):
        s.b[at.GAPS, b] = s.b[at.SIGN, b] * s.c[at.NEAR, s.barrier[b]] - s.b[at.ENDS, b]
        s.b[at.PAIRS, b] = s.b[at.GAPS, b] * s.b[at.Z, b]
    infeasible = 0.0
    for i in range(s.r.shape[1]):
        infeasible = larger(infeasible, abs(s.r[at.PRIMAL, i]))
    return infeasible


@inner
def _arrived(s, infeasible, tolerance):
    """Residuals small enough for the active set to be known."""
    gap, t = 0.0, s.k[at.COLDEST]
    for b in range(s.b.shape[1]):
        gap += s.b[at.PAIRS, b]
    if not (gap <= max(tolerance * t, s.k[at.ROUNDING]) and infeasible <= 10 * tolerance):
        return False
    dual, error = s.c[at.SCRATCH], 0.0
    copy(dual, s.c[at.DUAL])
    for b in range(s.b.shape[1]):
        dual[s.barrier[b]] += s.b[at.SIGN, b] * s.b[at.Z, b]
    for j in range(s.c.shape[1]):
        left = 0.0 if s.k[at.MOVES] != 0.0 and s.c[at.PINNED, j] != 0.0 else dual[j]
        if j >= s.events:
            left = abs(left)
        elif s.k[at.STEEP] != 0.0:
            x = phi.inverse_slope(s.k[at.KIND], s.k[at.ALPHA], s.c[at.SLOPE, j] + left / s.c[at.TEMPERATURE, j])
            left = t * abs(x - s.c[at.NEAR, j])
        else:
            left = abs(left) / max(s.c[at.CURVATURE, j], 1.0)
        error = larger(error, left)
    return error <= max(s.k[at.DUAL_ERROR] * t, s.k[at.ROUNDING])


@inner
def _direction(s, infeasible, factor_, warmest):
    """dw, dy, dz into ``s``, and how far to go; 0 where there is no direction."""
    d, barriers = s.c[at.D], s.b.shape[1]
    fill(d, s.k[at.PROXIMAL])
    for i in range(s.events):
        d[i] += factor_ * s.c[at.TEMPERATURE, i] * s.c[at.CURVATURE, i]
    if s.k[at.MOVES] != 0.0:
        for j in range(s.c.shape[1]):
            if s.c[at.PINNED, j] != 0.0:
                d[j] = s.k[at.IMMOVABLE]
    for b in range(barriers):
        d[s.barrier[b]] += s.b[at.Z, b] / s.b[at.GAPS, b]
    for j in range(s.c.shape[1]):
        d[j] = 1.0 / d[j]
    if not factor(s):
        return 0.0
    solve(s, s.c[at.DUAL], s.r[at.PRIMAL], s.c[at.DW], s.r[at.DY])
    if not barriers:
        return 1.0
    _center(s, infeasible, factor_, warmest)
    copy(s.c[at.P], s.c[at.DUAL])
    for b in range(barriers):
        s.c[at.P, s.barrier[b]] += s.b[at.SIGN, b] * s.b[at.CENTER, b]
    solve(s, s.c[at.P], s.r[at.PRIMAL], s.c[at.DW], s.r[at.DY])
    for _ in range(int(s.k[at.STEP_REFINEMENTS] * s.k[at.HAS_AUXILIARY])):
        residual(s, s.r[at.PRIMAL], s.c[at.DW], s.r[at.Q2])
        fill(s.c[at.P2], 0.0)
        solve(s, s.c[at.P2], s.r[at.Q2], s.c[at.DW2], s.r[at.DY2])
        add(s.c[at.DW], s.c[at.DW2])
        add(s.r[at.DY], s.r[at.DY2])
    furthest = 1e-30
    for b in range(barriers):
        relative = s.b[at.SIGN, b] * s.c[at.DW, s.barrier[b]] / s.b[at.GAPS, b]
        s.b[at.DZ, b] = s.b[at.CENTER, b] - s.b[at.Z, b] * (1.0 + relative)
        furthest = larger(larger(furthest, -relative), -s.b[at.DZ, b] / s.b[at.Z, b])
    return min(s.k[at.STEP] / furthest, 1.0)


@inner
def _center(s, infeasible, factor_, warmest):
    """Mehrotra's corrected target for the products of gaps and multipliers, over the gaps."""
    mu, low, high, barriers = 0.0, 0.0, 0.0, s.b.shape[1]
    for b in range(barriers):
        relative = s.b[at.SIGN, b] * s.c[at.DW, s.barrier[b]] / s.b[at.GAPS, b]
        s.b[at.CENTER, b] = relative
        mu += s.b[at.PAIRS, b]
        low, high = (relative, relative) if b == 0 else (min(low, relative), max(high, relative))
    mu /= barriers
    step = 1.0 / max(-low, 1.0 + high, 1.0)
    reached = 0.0
    for b in range(barriers):
        relative = s.b[at.CENTER, b]
        reached += s.b[at.PAIRS, b] * (1.0 + step * relative) * (1.0 - step * (1.0 + relative))
    target = min(max(reached / barriers / mu, 0.0), 1.0) ** 3 * mu
    if s.k[at.STEEP] != 0.0:
        floor = max(
            s.k[at.BARRIER_FLOOR_INFEASIBLE] * min(infeasible, 1.0), s.k[at.BARRIER_FLOOR] if factor_ > 1.0 else 0.0
        )
        target = max(target, warmest * floor)
    target = max(target, s.k[at.LEAST_BARRIER] * factor_)
    most = s.k[at.MOST_CORRECTION] * mu
    for b in range(barriers):
        relative = s.b[at.CENTER, b]
        correction = min(max(s.b[at.PAIRS, b] * relative * (1.0 + relative), -most), most)
        s.b[at.CENTER, b] = (target + correction) / s.b[at.GAPS, b]


@inner
def shorter_step(s, x, dx, slope, curvature):
    """x moved by the shorter of the Newton steps in x and in phi'(x)."""
    straight, curved = x + dx, phi.inverse_slope(s.k[at.KIND], s.k[at.ALPHA], slope + curvature * dx)
    return max(straight, curved) if dx < 0.0 else min(straight, curved)


@inner
def _move(s, step):
    """By so much of the direction, in place."""
    for j in range(s.c.shape[1]):
        dx = step * s.c[at.DW, j]
        if s.k[at.STEEP] != 0.0 and j < s.events:
            if not (s.k[at.MOVES] != 0.0 and s.c[at.PINNED, j] != 0.0):
                moved = shorter_step(s, s.c[at.NEAR, j], dx, s.c[at.SLOPE, j], s.c[at.CURVATURE, j])
                s.c[at.NEAR, j] = min(max(moved, s.k[at.LOW]), s.k[at.HIGH])
        else:
            s.c[at.NEAR, j] += dx
    for i in range(s.r.shape[1]):
        s.r[at.NEAR_Y, i] += step * s.r[at.DY, i]
    if s.b.shape[1]:
        for b in range(s.b.shape[1]):
            s.b[at.Z, b] += step * s.b[at.DZ, b]
