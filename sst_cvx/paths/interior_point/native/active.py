"""The KKT system of an active set, as ``..kkt``: free columns, and rows whose slack is fixed.

Rows with a free slack take no part: their dy is p of the slack, which takes up what is left of the row.
"""

from __future__ import annotations

from sst_cvx.paths.interior_point.native import layout as at
from sst_cvx.paths.interior_point.native.inner import inner
from sst_cvx.paths.interior_point.native.systems import factor_schur, larger, residual, substitute


@inner
def factor_active(s, coldest):
    """For d of ``s``, 0 of columns that are fixed. False: it has no factor."""
    d = s.c[at.D]
    for i in range(s.r.shape[1]):
        s.r[at.TAKE, i] = s.rows[at.SLACK, i] < 0 or d[s.rows[at.SLACK, i]] == 0.0
    return factor_schur(s, s.k[at.FLOOR] / coldest)


@inner
def _solve(s, p, q, dw, dy):
    d, rows = s.c[at.D], s.r.shape[1]
    for i in range(rows):
        dy[i] = 0.0 if s.r[at.TAKE, i] != 0.0 else p[s.rows[at.SLACK, i]]
    rest = s.c[at.SCRATCH]  # of p, without what rows that take no part ask
    for j in range(s.structural):
        total = p[j]
        if d[j] != 0.0:
            for k in range(s.starts[j], s.starts[j + 1]):
                total -= s.values[s.entries[at.ENTRY, k]] * dy[s.entries[at.ROW, k]]
        rest[j] = total
        dw[j] = d[j] * total
    right = s.r[at.SCRATCH_ROW]
    for i in range(rows):
        total = 0.0
        if s.r[at.TAKE, i] != 0.0:
            total = -q[i]
            for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                total += s.values[k] * dw[s.entries[at.COLUMN, k]]
        right[i] = total
    substitute(s.matrix, 0, rows, right)
    for j in range(s.structural):
        if d[j] != 0.0:
            total = rest[j]
            for k in range(s.starts[j], s.starts[j + 1]):
                total -= s.values[s.entries[at.ENTRY, k]] * right[s.entries[at.ROW, k]]
            dw[j] = d[j] * total
    for i in range(rows):
        if s.r[at.TAKE, i] != 0.0:
            dy[i] = right[i]
            if s.rows[at.SLACK, i] >= 0:
                dw[s.rows[at.SLACK, i]] = 0.0
        else:
            total = q[i]
            for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                total -= s.values[k] * dw[s.entries[at.COLUMN, k]]
            dw[s.rows[at.SLACK, i]] = total


@inner
def refined(s, unit, refinements, proximal):
    """dw, dy of ``s`` for its p (0 at fixed columns) and q, and the error left; ``proximal``: curvature that
    auxiliary columns were given, which is taken out again."""
    dw, dy, dw2, dy2, p2 = s.c[at.DW], s.r[at.DY], s.c[at.DW2], s.r[at.DY2], s.c[at.P2]
    _solve(s, s.c[at.P], s.r[at.Q], dw, dy)
    size = max(unit, 1e-200)
    for j in range(s.c.shape[1]):
        size = larger(size, abs(dw[j]))
        dw2[j] = dw[j]
        p2[j] = 0.0
    error = size
    for _ in range(refinements):
        for j in range(s.events, s.structural):
            p2[j] = proximal * dw2[j] if s.c[at.D, j] != 0.0 else 0.0
        residual(s, s.r[at.Q], dw, s.r[at.Q2])
        _solve(s, p2, s.r[at.Q2], dw2, dy2)
        error = 0.0
        for j in range(s.c.shape[1]):
            dw[j] += dw2[j]
            error = larger(error, abs(dw2[j]))
        for i in range(s.r.shape[1]):
            dy[i] += dy2[i]
        error /= size
        if error <= s.k[at.EXACT]:
            break
    return error
