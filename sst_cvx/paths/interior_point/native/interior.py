"""Mehrotra's method for one element, as ``..interior``."""

from __future__ import annotations

from math import isfinite

from sst_cvx.native import compiled
from sst_cvx.paths.interior_point.native import phi
from sst_cvx.paths.interior_point.native.systems import dual_residual, factor, larger, residual, solve


@compiled
def run(hull, rules, tol, element, space, now, schedule):
    """From w of ``now``, in place; the steps that it took, negative if it did not arrive.

    ``schedule``: iterations, cooling, gate.
    """
    target = 0.0
    for i in range(hull.events):
        target = max(target, element.temperature[i])
    factor_ = max(tol.first_temperature / target, 1.0) if rules.steep else 1.0
    now.y[:] = 0.0
    for b in range(rules.sign.shape[0]):
        now.z[b] = tol.first_barrier / (rules.sign[b] * now.w[rules.barrier[b]] - element.ends[b])
    iterations = int(schedule[0])
    for iteration in range(iterations):
        tolerance = tol.loose if iteration > tol.late * iterations else tol.tolerance
        infeasible = residuals(hull, rules, element, space, now, factor_)
        if factor_ == 1.0 and _arrived(hull, rules, tol, element, space, now, infeasible, tolerance):
            return iteration
        if not isfinite(infeasible):
            break
        step = _direction(hull, rules, tol, element, space, now, infeasible, factor_, factor_ * target)
        if not step > 0.0:
            break
        _move(hull, rules, element, space, now, step)
        if rules.steep and infeasible < schedule[2]:
            factor_ = max(factor_ * schedule[1], 1.0)
    return -iterations


@compiled
def residuals(hull, rules, element, space, now, factor_):
    """Slopes, curvatures, residuals and gaps into ``space``; the largest primal residual."""
    dual_residual(hull, element.values, element.linear, now.y, space.dual)
    for i in range(hull.events):
        space.slope[i] = phi.slope(rules.kind, rules.alpha, now.w[i])
        space.curvature[i] = phi.curvature(rules.kind, rules.alpha, now.w[i])
        space.dual[i] -= factor_ * element.temperature[i] * space.slope[i]
    residual(hull, element.values, element.right, now.w, space.primal)
    for b in range(rules.sign.shape[0]):
        space.gaps[b] = rules.sign[b] * now.w[rules.barrier[b]] - element.ends[b]
        space.pairs[b] = space.gaps[b] * now.z[b]
    infeasible = 0.0
    for i in range(space.primal.shape[0]):
        infeasible = larger(infeasible, abs(space.primal[i]))
    return infeasible


@compiled
def _arrived(hull, rules, tol, element, space, now, infeasible, tolerance):
    """Residuals small enough for the active set to be known."""
    gap, t = 0.0, element.coldest
    for b in range(rules.sign.shape[0]):
        gap += space.pairs[b]
    if not (gap <= max(tolerance * t, tol.rounding) and infeasible <= 10 * tolerance):
        return False
    dual, error = space.column, 0.0
    dual[:] = space.dual
    for b in range(rules.sign.shape[0]):
        dual[rules.barrier[b]] += rules.sign[b] * now.z[b]
    for j in range(dual.shape[0]):
        left = 0.0 if rules.moves and element.pinned[j] else dual[j]
        if j >= hull.events:
            left = abs(left)
        elif rules.steep:
            x = phi.inverse_slope(rules.kind, rules.alpha, space.slope[j] + left / element.temperature[j])
            left = t * abs(x - now.w[j])
        else:
            left = abs(left) / max(space.curvature[j], 1.0)
        error = larger(error, left)
    return error <= max(tol.dual * t, tol.rounding)


@compiled
def _direction(hull, rules, tol, element, space, now, infeasible, factor_, warmest):
    """dw, dy, dz into ``space``, and how far to go; 0 where there is no direction."""
    d, barriers, values = space.d, rules.sign.shape[0], element.values
    d[:] = tol.proximal
    for i in range(hull.events):
        d[i] += factor_ * element.temperature[i] * space.curvature[i]
    if rules.moves:
        for j in range(d.shape[0]):
            if element.pinned[j]:
                d[j] = tol.immovable
    for b in range(barriers):
        d[rules.barrier[b]] += now.z[b] / space.gaps[b]
    for j in range(d.shape[0]):
        d[j] = 1.0 / d[j]
    if not factor(hull, values, tol, space):
        return 0.0
    solve(hull, values, tol, space, space.dual, space.primal, space.dw, space.dy)
    if not barriers:
        return 1.0
    _center(rules, tol, space, infeasible, factor_, warmest)
    space.p[:] = space.dual
    for b in range(barriers):
        space.p[rules.barrier[b]] += rules.sign[b] * space.center[b]
    solve(hull, values, tol, space, space.p, space.primal, space.dw, space.dy)
    for _ in range(tol.step_refinements if rules.auxiliary else 0):
        residual(hull, values, space.primal, space.dw, space.q2)
        space.p2[:] = 0.0
        solve(hull, values, tol, space, space.p2, space.q2, space.dw2, space.dy2)
        space.dw[:] += space.dw2
        space.dy[:] += space.dy2
    furthest = 1e-30
    for b in range(barriers):
        relative = rules.sign[b] * space.dw[rules.barrier[b]] / space.gaps[b]
        space.dz[b] = space.center[b] - now.z[b] * (1.0 + relative)
        furthest = larger(larger(furthest, -relative), -space.dz[b] / now.z[b])
    return min(tol.step / furthest, 1.0)


@compiled
def _center(rules, tol, space, infeasible, factor_, warmest):
    """Mehrotra's corrected target for the products of gaps and multipliers, over the gaps."""
    mu, low, high, barriers = 0.0, 0.0, 0.0, rules.sign.shape[0]
    for b in range(barriers):
        relative = rules.sign[b] * space.dw[rules.barrier[b]] / space.gaps[b]
        space.center[b] = relative
        mu += space.pairs[b]
        low, high = (relative, relative) if b == 0 else (min(low, relative), max(high, relative))
    mu /= barriers
    step = 1.0 / max(-low, 1.0 + high, 1.0)
    reached = 0.0
    for b in range(barriers):
        relative = space.center[b]
        reached += space.pairs[b] * (1.0 + step * relative) * (1.0 - step * (1.0 + relative))
    target = min(max(reached / barriers / mu, 0.0), 1.0) ** 3 * mu
    if rules.steep:
        floor = max(tol.barrier_floor_infeasible * min(infeasible, 1.0), tol.barrier_floor if factor_ > 1.0 else 0.0)
        target = max(target, warmest * floor)
    target = max(target, tol.least_barrier * factor_)
    most = tol.most_correction * mu
    for b in range(barriers):
        relative = space.center[b]
        correction = min(max(space.pairs[b] * relative * (1.0 + relative), -most), most)
        space.center[b] = (target + correction) / space.gaps[b]


@compiled
def shorter_step(rules, x, dx, slope, curvature):
    """x moved by the shorter of the Newton steps in x and in phi'(x)."""
    straight, curved = x + dx, phi.inverse_slope(rules.kind, rules.alpha, slope + curvature * dx)
    return max(straight, curved) if dx < 0.0 else min(straight, curved)


@compiled
def _move(hull, rules, element, space, now, step):
    """By so much of the direction, in place."""
    for j in range(now.w.shape[0]):
        dx = step * space.dw[j]
        if rules.steep and j < hull.events:
            if not (rules.moves and element.pinned[j]):
                moved = shorter_step(rules, now.w[j], dx, space.slope[j], space.curvature[j])
                now.w[j] = min(max(moved, rules.low), rules.high)
        else:
            now.w[j] += dx
    for i in range(now.y.shape[0]):
        now.y[i] += step * space.dy[i]
    if rules.sign.shape[0]:
        for b in range(now.z.shape[0]):
            now.z[b] += step * space.dz[b]
