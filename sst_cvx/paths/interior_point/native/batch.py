"""The loops over elements: what Python calls, and what is kept on disk."""

from __future__ import annotations

from math import inf, isfinite

import numpy as np

from sst_cvx.native import compiled
from sst_cvx.paths.interior_point.native import layout as at
from sst_cvx.paths.interior_point.native.active import factor_active, refined
from sst_cvx.paths.interior_point.native.inner import inner
from sst_cvx.paths.interior_point.native.interior import run
from sst_cvx.paths.interior_point.native.layout import Room
from sst_cvx.paths.interior_point.native.polish import polish
from sst_cvx.paths.interior_point.native.systems import copy, fill, residual


@inner
def _room(hull, columns, barriers):
    """For one element after the other; arrays of the hull as ``tables.Tables.hull`` has them."""
    rows, entries, starts, barrier, sign, numbers, structural, events, condensed = hull
    count, equal = rows.shape[1] - 1, 0
    for i in range(count):
        equal += rows[at.SLACK, i] < 0
    size = max(count, structural)
    matrix = np.empty((size + 2 * equal if condensed else size, size))
    b = np.empty((at.BARRIER_ARRAYS, barriers))
    for i in range(barriers):
        b[at.SIGN, i] = sign[i]
    c, r = np.empty((at.COLUMN_ARRAYS, columns)), np.empty((at.ROW_ARRAYS, count))
    return Room(rows, entries, starts, numbers, barrier, numbers.copy(), c, r, b, matrix, structural, events, condensed)


@inner
def _of(s, values):
    """The same room for an element with these entries."""
    return Room(
        s.rows,
        s.entries,
        s.starts,
        values,
        s.barrier,
        s.k,
        s.c,
        s.r,
        s.b,
        s.matrix,
        s.structural,
        s.events,
        s.condensed,
    )


@inner
def _start(s, start):
    """A point to start from: as given, or between the bounds."""
    for j in range(s.c.shape[1]):
        low, high = s.c[at.LOWER, j], s.c[at.UPPER, j]
        if start.shape[0]:
            s.c[at.NEAR, j] = start[j]
        elif isfinite(low) and isfinite(high):
            s.c[at.NEAR, j] = 0.5 * (low + high)
        else:
            s.c[at.NEAR, j] = low + 1.0 if isfinite(low) else (high - 1.0 if isfinite(high) else 0.0)


@inner
def _pose(s, u, t, weights):
    """Utilities ``u`` and a temperature in their unit."""
    shift, scale, least = 0.0, 0.0, inf
    if s.k[at.FIXED_SUM] != 0.0:
        for i in range(s.events):
            shift += u[i]
        shift /= s.events
    for i in range(weights.shape[0]):
        least = min(least, weights[i])
    for i in range(s.events):
        scale = max(scale, abs(u[i] - shift))
    scale = max(scale, t * least)
    fill(s.c[at.LINEAR], 0.0)
    for i in range(s.events):
        s.c[at.LINEAR, i] = (u[i] - shift) / scale
        s.c[at.TEMPERATURE, i] = t / scale * weights[i if weights.shape[0] > 1 else 0]
    s.k[at.COLDEST] = t / scale * least


@inner
def _bound(s, right, bounds, start):
    """Right sides, bounds, the point to start from, and the ends of the barriers."""
    copy(s.c[at.LOWER], bounds[0])
    copy(s.c[at.UPPER], bounds[1])
    for i in range(s.r.shape[1]):
        s.r[at.RIGHT, i] = right[s.rows[at.PLACE, i]]
    for j in range(s.c.shape[1]):
        room = s.c[at.UPPER, j] - s.c[at.LOWER, j]
        closed = room <= s.k[at.NO_ROOM] * (1.0 + abs(s.c[at.LOWER, j])) and isfinite(room)
        s.c[at.PINNED, j] = 1.0 if closed else 0.0
    _start(s, start)
    for b in range(s.b.shape[1]):
        j, sign = s.barrier[b], s.b[at.SIGN, b]
        s.b[at.ENDS, b] = sign * (s.c[at.LOWER, j] if sign > 0.0 else s.c[at.UPPER, j])
        if s.k[at.MOVES] != 0.0 and s.c[at.PINNED, j] != 0.0:  # it does not move: its barriers keep a distance of 1
            s.b[at.ENDS, b] = sign * s.c[at.NEAR, j] - 1.0


@compiled
def solve_all(hull, schedules, start, weights, values, u, t, right, bounds, w, y, side, accepted, steps):
    """Solutions of all elements into the last five. ``values``, ``right`` and ``bounds`` may be one for all."""
    room = _room(hull, w.shape[1], hull[3].shape[0])
    for e in range(u.shape[0]):
        s = _of(room, values[e % values.shape[0]])
        _pose(s, u[e], t[e], weights)
        steps[e], found = 0, -1
        for k in range(schedules.shape[0]):
            _bound(s, right[e % right.shape[0]], bounds[e % bounds.shape[0]], start)
            found = run(s, schedules[k])
            steps[e] += abs(found)
            if found >= 0:
                break
        accepted[e] = found >= 0 and polish(s, start)
        if accepted[e]:
            copy(w[e], s.c[at.W])
            copy(side[e], s.c[at.SIDE])
            for i in range(s.r.shape[1]):
                y[e, s.rows[at.PLACE, i]] = s.r[at.Y, i]


@compiled
def differentiate_all(hull, values, inverse_curvature, t, free, p, q, unit, probes, dw, dy, error, reached):
    """dw and dy of the active systems for right sides p and q, and their errors, into the last four; whether free
    columns can take up the ``probes``, if there are any."""
    room = _room(hull, p.shape[1], 0)
    for e in range(p.shape[0]):
        s = _of(room, values[e % values.shape[0]])
        proximal = s.k[at.PROXIMAL_ACTIVE] * t[e]
        for j in range(p.shape[1]):
            s.c[at.D, j] = (inverse_curvature[e, j] if j < s.events else 1.0 / proximal) if free[e, j] else 0.0
            s.c[at.P, j] = p[e, j] if s.c[at.D, j] != 0.0 else 0.0
        for i in range(s.r.shape[1]):
            s.r[at.Q, i] = q[e, s.rows[at.PLACE, i]]
        error[e], reached[e] = inf, True
        if factor_active(s, t[e]):
            error[e] = refined(s, unit[e], int(s.k[at.REFINEMENTS]), proximal)
            copy(dw[e], s.c[at.DW])
            for i in range(s.r.shape[1]):
                dy[e, s.rows[at.PLACE, i]] = s.r[at.DY, i]
            if probes.shape[0]:
                reached[e] = _reaches(s, probes[e])


@inner
def _reaches(s, probe):
    """Whether free columns can take up these right sides, by the factor that is there."""
    size, right, dw = 1e-200, s.r[at.RIGHT], s.c[at.W]
    fill(s.c[at.P], 0.0)
    fill(dw, 0.0)
    for i in range(s.r.shape[1]):
        right[i] = probe[s.rows[at.PLACE, i]]
        size = max(size, abs(right[i]))
    for _ in range(int(s.k[at.NEWTON_REFINEMENTS])):
        residual(s, right, dw, s.r[at.Q])
        reached = True
        for i in range(s.r.shape[1]):
            reached = reached and abs(s.r[at.Q, i]) <= s.k[at.REACHED] * size
        if reached:
            return True
        refined(s, 1.0, 0, 0.0)
        for j in range(s.c.shape[1]):
            dw[j] += s.c[at.DW, j]
    return False
