"""The loops over elements."""

from __future__ import annotations

from math import inf, isfinite

import numpy as np

from sst_cvx.native import compiled
from sst_cvx.paths.interior_point.native.active import factor_active, refined
from sst_cvx.paths.interior_point.native.interior import run
from sst_cvx.paths.interior_point.native.polish import polish
from sst_cvx.paths.interior_point.native.systems import residual
from sst_cvx.paths.interior_point.native.types import Element, Point, Space


@compiled
def _space(hull, columns, barriers):
    rows = hull.slack.shape[0]
    equal = 0
    for i in range(rows):
        equal += hull.slack[i] < 0
    size, inner = max(rows, hull.structural), equal if hull.condensed else 0
    c, r = np.empty((9, columns)), np.empty((6, rows))
    e, b = np.empty((2, hull.events)), np.empty((4, barriers))
    return Space(
        np.empty((size, size)), np.empty((inner, hull.structural)), np.empty((inner, inner)),
        c[0], np.empty(rows, np.bool_), c[1], r[0], c[2], r[1], c[3], r[2], c[4], r[3], e[0], e[1],
        c[5], r[4], b[0], b[1], b[2], b[3], c[6], c[7], c[8], r[5],
    )  # fmt: skip


@compiled
def _point(columns, rows, barriers):
    return Point(np.empty(columns), np.empty(rows), np.empty(barriers), np.empty(columns))


@compiled
def _start(element, start, w):
    """A point to start from: as given, or between the bounds."""
    for j in range(w.shape[0]):
        low, high = element.lower[j], element.upper[j]
        if start.shape[0]:
            w[j] = start[j]
        elif isfinite(low) and isfinite(high):
            w[j] = 0.5 * (low + high)
        else:
            w[j] = low + 1.0 if isfinite(low) else (high - 1.0 if isfinite(high) else 0.0)


@compiled
def _pose(hull, rules, tol, element, u, t, weights, right, start):
    """Utilities, temperatures and right sides of an element into its arrays, and its smallest temperature."""
    events, shift = hull.events, 0.0
    if rules.fixed_sum:
        for i in range(events):
            shift += u[i]
        shift /= events
    scale, least = 0.0, inf
    for i in range(weights.shape[0]):
        least = min(least, weights[i])
    for i in range(events):
        scale = max(scale, abs(u[i] - shift))
    scale = max(scale, t * least)
    element.linear[:] = 0.0
    for i in range(events):
        element.linear[i] = (u[i] - shift) / scale
        element.temperature[i] = t / scale * weights[i if weights.shape[0] > 1 else 0]
    for i in range(hull.place.shape[0]):
        element.right[i] = right[hull.place[i]]
    for j in range(element.pinned.shape[0]):
        room = element.upper[j] - element.lower[j]
        element.pinned[j] = room <= tol.no_room * (1.0 + abs(element.lower[j])) and isfinite(room)
    for b in range(rules.sign.shape[0]):
        j = rules.barrier[b]
        element.ends[b] = rules.sign[b] * (element.lower[j] if rules.sign[b] > 0.0 else element.upper[j])
        if rules.moves and element.pinned[j]:  # pinned columns do not move: their barriers keep a distance of 1
            element.ends[b] = rules.sign[b] * start[j] - 1.0
    return t / scale * least


@compiled
def solve_all(hull, rules, tol, schedules, start, weights, values, u, t, right, bounds, w, y, side, accepted, steps):
    """Solutions of all elements into the last five. ``values``, ``right`` and ``bounds`` may be one for all."""
    columns, barriers = w.shape[1], rules.sign.shape[0]
    rows, space = hull.slack.shape[0], _space(hull, columns, barriers)
    near, point, first = _point(columns, rows, barriers), _point(columns, rows, barriers), np.empty(columns)
    linear, temperature, ends = np.empty(columns), np.empty(hull.events), np.empty(barriers)
    own, pinned = np.empty(rows), np.empty(columns, np.bool_)
    for e in range(u.shape[0]):
        limits, numbers = bounds[e % bounds.shape[0]], values[e % values.shape[0]]
        element = Element(numbers, linear, temperature, own, limits[0], limits[1], ends, pinned, 1.0)
        _start(element, start, first)
        coldest = _pose(hull, rules, tol, element, u[e], t[e], weights, right[e % right.shape[0]], first)
        element = Element(numbers, linear, temperature, own, limits[0], limits[1], ends, pinned, coldest)
        steps[e], found = 0, -1
        for k in range(schedules.shape[0]):
            near.w[:] = first
            found = run(hull, rules, tol, element, space, near, schedules[k])
            steps[e] += abs(found)
            if found >= 0:
                break
        accepted[e] = found >= 0 and polish(hull, rules, tol, element, space, near, point)
        if accepted[e]:
            w[e], side[e] = point.w, point.side
            for i in range(rows):
                y[e, hull.place[i]] = point.y[i]


@compiled
def differentiate_all(hull, tol, values, inverse_curvature, t, free, p, q, unit, probes, dw, dy, error, reached):
    """dw and dy of the active systems for right sides p and q, and their errors, into the last four; whether free
    columns can take up the ``probes``, if there are any."""
    columns, rows = p.shape[1], hull.slack.shape[0]
    space = _space(hull, columns, 0)
    for e in range(p.shape[0]):
        numbers = values[e % values.shape[0]]
        for j in range(columns):
            d = 1.0 / (tol.proximal_active * t[e])
            space.d[j] = (inverse_curvature[e, j] if j < hull.events else d) if free[e, j] else 0.0
            space.p[j] = p[e, j] if space.d[j] != 0.0 else 0.0
        for i in range(rows):
            space.q[i] = q[e, hull.place[i]]
        error[e], reached[e] = inf, True
        if factor_active(hull, numbers, tol, space, t[e]):
            error[e] = refined(hull, numbers, tol, space, unit[e], tol.refinements, tol.proximal_active * t[e])
            dw[e] = space.dw
            for i in range(rows):
                dy[e, hull.place[i]] = space.dy[i]
            if probes.shape[0]:
                reached[e] = _reaches(hull, numbers, tol, space, probes[e])


@compiled
def _reaches(hull, values, tol, space, probe):
    """Whether free columns can take up these right sides, by the factor that is there."""
    rows, columns = hull.slack.shape[0], space.dw.shape[0]
    size, right, dw = 1e-200, np.empty(rows), np.zeros(columns)
    space.p[:] = 0.0
    for i in range(rows):
        right[i] = probe[hull.place[i]]
        size = max(size, abs(right[i]))
    for _ in range(tol.newton_refinements):
        residual(hull, values, right, dw, space.q)
        reached = True
        for i in range(rows):
            reached = reached and abs(space.q[i]) <= tol.reached * size
        if reached:
            return True
        refined(hull, values, tol, space, 1.0, 0, 0.0)
        dw += space.dw
    return False
