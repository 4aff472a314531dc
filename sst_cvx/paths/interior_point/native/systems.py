"""Newton systems of one element: products with M, the Schur complement of the rows, the condensed system.

[ diag(1 / d)  M' ] [ dw ]   [ p ]
[ M            0  ] [ dy ] = [ q ]
"""

from __future__ import annotations

from math import sqrt

from sst_cvx.paths.interior_point.native import layout as at
from sst_cvx.paths.interior_point.native.inner import inner


@inner
def times(s, w, out):
    """M w."""
    for i in range(out.shape[0]):
        total = 0.0 if s.rows[at.SLACK, i] < 0 else w[s.rows[at.SLACK, i]]
        for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
            total += s.values[k] * w[s.entries[at.COLUMN, k]]
        out[i] = total


@inner
def transposed(s, y, out):
    """M' y."""
    for j in range(s.structural):
        total = 0.0
        for k in range(s.starts[j], s.starts[j + 1]):
            total += s.values[s.entries[at.ENTRY, k]] * y[s.entries[at.ROW, k]]
        out[j] = total
    for i in range(y.shape[0]):
        if s.rows[at.SLACK, i] >= 0:
            out[s.rows[at.SLACK, i]] = y[i]


@inner
def residual(s, right, w, out):
    """right - M w."""
    times(s, w, out)
    for i in range(out.shape[0]):
        out[i] = right[i] - out[i]


@inner
def dual_residual(s, linear, y, out):
    """linear - M' y."""
    transposed(s, y, out)
    for j in range(out.shape[0]):
        out[j] = linear[j] - out[j]


@inner
def cholesky(matrix, first, size):
    """In place, of the upper triangle; zeros stay free. False: not positive definite."""
    for k in range(size):
        upper = matrix[first + k]
        if not upper[k] > 0.0:
            return False
        root = sqrt(upper[k])
        upper[k] = root
        for j in range(k + 1, size):
            upper[j] /= root
        for i in range(k + 1, size):
            factor = upper[i]
            if factor != 0.0:
                lower = matrix[first + i]
                for j in range(i, size):
                    lower[j] -= factor * upper[j]
    return True


@inner
def substitute(matrix, first, size, right):
    """The solution in place of a right side, by a Cholesky factor."""
    for k in range(size):
        upper = matrix[first + k]
        known = right[k] / upper[k]
        right[k] = known
        if known != 0.0:
            for j in range(k + 1, size):
                right[j] -= known * upper[j]
    for k in range(size - 1, -1, -1):
        upper = matrix[first + k]
        total = right[k]
        for j in range(k + 1, size):
            total -= upper[j] * right[j]
        right[k] = total / upper[k]


@inner
def factor_schur(s, floor):
    """S = M diag(d) M' + floor of the rows that take part; of others, 1. False: it has no factor."""
    matrix, d, take, rows = s.matrix, s.c[at.D], s.r[at.TAKE], s.r.shape[1]
    ridge = s.k[at.RIDGE]
    while True:
        for i in range(rows):
            for k in range(i, rows):
                matrix[i, k] = 0.0
            matrix[i, i] = floor if take[i] != 0.0 else 1.0
            if take[i] != 0.0 and s.rows[at.SLACK, i] >= 0:
                matrix[i, i] += d[s.rows[at.SLACK, i]]
        for j in range(s.structural):
            if d[j] == 0.0:
                continue
            for a in range(s.starts[j], s.starts[j + 1]):
                i = s.entries[at.ROW, a]
                if take[i] != 0.0:
                    scaled = d[j] * s.values[s.entries[at.ENTRY, a]]
                    for b in range(a, s.starts[j + 1]):
                        if take[s.entries[at.ROW, b]] != 0.0:
                            matrix[i, s.entries[at.ROW, b]] += scaled * s.values[s.entries[at.ENTRY, b]]
        for i in range(rows):
            matrix[i, i] *= 1.0 + ridge
        if cholesky(matrix, 0, rows):
            return True
        if not ridge < s.k[at.LARGEST_RIDGE]:
            return False
        ridge *= s.k[at.RIDGE_GROWTH]


@inner
def solve_schur(s, p, q, dw, dy):
    """dw and dy where all rows take part."""
    d = s.c[at.D]
    for j in range(s.c.shape[1]):
        dw[j] = d[j] * p[j]
    times(s, dw, dy)
    for i in range(s.r.shape[1]):
        dy[i] -= q[i]
    substitute(s.matrix, 0, s.r.shape[1], dy)
    dual_residual(s, p, dy, dw)
    for j in range(s.c.shape[1]):
        dw[j] *= d[j]


@inner
def _form_condensed(s):
    """K = diag(1 / d) + G' diag(1 / d_slack) G, the upper triangle."""
    matrix, d, size, most = s.matrix, s.c[at.D], s.structural, s.k[at.LARGEST_RECIPROCAL]
    for j in range(size):
        for k in range(j, size):
            matrix[j, k] = 0.0
        matrix[j, j] = min(1.0 / d[j], most)
    for i in range(s.r.shape[1]):
        if s.rows[at.SLACK, i] < 0:
            continue
        weight = min(1.0 / d[s.rows[at.SLACK, i]], most)
        for a in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
            scaled = weight * s.values[a]
            for b in range(a, s.rows[at.START, i + 1]):
                matrix[s.entries[at.COLUMN, a], s.entries[at.COLUMN, b]] += scaled * s.values[b]


@inner
def factor_condensed(s):
    """K and the Schur complement of the equalities in it. False: they have no factor."""
    matrix, size, ridge = s.matrix, s.structural, s.k[at.RIDGE]
    while True:
        _form_condensed(s)
        for j in range(size):
            matrix[j, j] *= 1.0 + ridge
        if cholesky(matrix, 0, size):
            break
        if not ridge < s.k[at.LARGEST_RIDGE]:
            return False
        ridge *= s.k[at.RIDGE_GROWTH]
    equal, spread = 0, max(s.r.shape[1], size)
    for i in range(s.r.shape[1]):
        if s.rows[at.SLACK, i] < 0:
            one = matrix[spread + equal, :size]
            fill(one, 0.0)
            for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                one[s.entries[at.COLUMN, k]] = s.values[k]
            substitute(matrix, 0, size, one)
            equal += 1
    ridge, inner_ = s.k[at.RIDGE], spread + equal
    while equal:
        a = 0
        for i in range(s.r.shape[1]):
            if s.rows[at.SLACK, i] < 0:
                for b in range(a, equal):
                    total = 0.0
                    for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                        total += s.values[k] * matrix[spread + b, s.entries[at.COLUMN, k]]
                    matrix[inner_ + a, b] = total
                matrix[inner_ + a, a] *= 1.0 + ridge
                a += 1
        if cholesky(matrix, inner_, equal):
            break
        if not ridge < s.k[at.LARGEST_RIDGE]:
            return False
        ridge *= s.k[at.RIDGE_GROWTH]
    return True


@inner
def solve_condensed(s, p, q, dw, dy):
    """dw and dy by the condensed system."""
    d, size, rows, most = s.c[at.D], s.structural, s.r.shape[1], s.k[at.LARGEST_RECIPROCAL]
    for j in range(size):
        dw[j] = p[j]
    for i in range(rows):
        j = s.rows[at.SLACK, i]
        if j >= 0:
            push = p[j] - min(1.0 / d[j], most) * q[i]
            for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                dw[s.entries[at.COLUMN, k]] -= push * s.values[k]
    substitute(s.matrix, 0, size, dw)
    equal, spread = 0, max(rows, size)
    for i in range(rows):
        if s.rows[at.SLACK, i] < 0:
            total = -q[i]
            for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                total += s.values[k] * dw[s.entries[at.COLUMN, k]]
            s.r[at.SCRATCH_ROW, equal] = total
            equal += 1
    if equal:
        substitute(s.matrix, spread + equal, equal, s.r[at.SCRATCH_ROW])
        for a in range(equal):
            for j in range(size):
                dw[j] -= s.r[at.SCRATCH_ROW, a] * s.matrix[spread + a, j]
    equal = 0
    for i in range(rows):
        j = s.rows[at.SLACK, i]
        if j < 0:
            dy[i] = s.r[at.SCRATCH_ROW, equal]
            equal += 1
        else:
            total = q[i]
            for k in range(s.rows[at.START, i], s.rows[at.START, i + 1]):
                total -= s.values[k] * dw[s.entries[at.COLUMN, k]]
            dw[j] = total
            dy[i] = p[j] - min(1.0 / d[j], most) * total


@inner
def factor(s):
    """For d, all positive and finite, by the smaller of the two matrices."""
    if s.condensed:
        return factor_condensed(s)
    fill(s.r[at.TAKE], 1.0)
    return factor_schur(s, 0.0)


@inner
def solve(s, p, q, dw, dy):
    """By what ``factor`` made."""
    if s.condensed:
        solve_condensed(s, p, q, dw, dy)
    else:
        solve_schur(s, p, q, dw, dy)


@inner
def larger(found, value):
    """The larger of two numbers, NaN if one is."""
    return value if found == found and not value <= found else found


@inner
def fill(out, value):
    """One value everywhere; loops compile faster than slices."""
    for j in range(out.shape[0]):
        out[j] = value


@inner
def copy(out, x):
    """x, in place."""
    for j in range(out.shape[0]):
        out[j] = x[j]


@inner
def add(out, x):
    """x more, in place."""
    for j in range(out.shape[0]):
        out[j] += x[j]
