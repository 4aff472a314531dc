"""The KKT system of an active set, as ``..kkt``: free columns, and rows whose slack is fixed.

Rows with a free slack take no part: their dy is p of the slack, which takes up what is left of the row.
"""

from __future__ import annotations

from sst_cvx.native import compiled
from sst_cvx.paths.interior_point.native.systems import factor_schur, larger, residual, substitute


@compiled
def factor_active(hull, values, tol, space, coldest):
    """For d of ``space``, 0 of columns that are fixed. False: it has no factor."""
    d = space.d
    for i in range(hull.slack.shape[0]):
        space.take[i] = hull.slack[i] < 0 or d[hull.slack[i]] == 0.0
    return factor_schur(hull, values, tol, space, tol.floor / coldest)


@compiled
def _solve(hull, values, space, p, q, dw, dy):
    d, rows = space.d, hull.slack.shape[0]
    for i in range(rows):
        dy[i] = 0.0 if space.take[i] else p[hull.slack[i]]
    rest = space.column  # of p, without what rows that take no part ask
    for j in range(hull.structural):
        total = p[j]
        if d[j] != 0.0:
            for k in range(hull.column_start[j], hull.column_start[j + 1]):
                total -= values[hull.column_entry[k]] * dy[hull.row[k]]
        rest[j] = total
        dw[j] = d[j] * total
    right = space.row
    for i in range(rows):
        total = 0.0
        if space.take[i]:
            total = -q[i]
            for k in range(hull.row_start[i], hull.row_start[i + 1]):
                total += values[hull.row_entry[k]] * dw[hull.column[k]]
        right[i] = total
    substitute(space.matrix, rows, right)
    for j in range(hull.structural):
        if d[j] != 0.0:
            total = rest[j]
            for k in range(hull.column_start[j], hull.column_start[j + 1]):
                total -= values[hull.column_entry[k]] * right[hull.row[k]]
            dw[j] = d[j] * total
    for i in range(rows):
        if space.take[i]:
            dy[i] = right[i]
            if hull.slack[i] >= 0:
                dw[hull.slack[i]] = 0.0
        else:
            total = q[i]
            for k in range(hull.row_start[i], hull.row_start[i + 1]):
                total -= values[hull.row_entry[k]] * dw[hull.column[k]]
            dw[hull.slack[i]] = total


@compiled
def refined(hull, values, tol, space, unit, refinements, proximal):
    """dw, dy of ``space`` for its p (0 at fixed columns) and q, and the error left; ``proximal``: curvature that
    auxiliary columns were given, which is taken out again."""
    dw, dy, dw2, dy2, p2 = space.dw, space.dy, space.dw2, space.dy2, space.p2
    _solve(hull, values, space, space.p, space.q, dw, dy)
    size = max(unit, 1e-200)
    for j in range(dw.shape[0]):
        size = larger(size, abs(dw[j]))
        dw2[j] = dw[j]
        p2[j] = 0.0
    error = size
    for _ in range(refinements):
        for j in range(hull.events, hull.structural):
            p2[j] = proximal * dw2[j] if space.d[j] != 0.0 else 0.0
        residual(hull, values, space.q, dw, space.q2)
        _solve(hull, values, space, p2, space.q2, dw2, dy2)
        error = 0.0
        for j in range(dw.shape[0]):
            dw[j] += dw2[j]
            error = larger(error, abs(dw2[j]))
        for i in range(dy.shape[0]):
            dy[i] += dy2[i]
        error /= size
        if error <= tol.exact:
            break
    return error
