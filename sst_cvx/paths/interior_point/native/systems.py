"""Newton systems of one element: products with M, the Schur complement of the rows, the condensed system.

    [ diag(1 / d)  M' ] [ dw ]   [ p ]
    [ M            0  ] [ dy ] = [ q ]
"""

from __future__ import annotations

from math import sqrt

from sst_cvx.native import compiled


@compiled
def times(hull, values, w, out):
    """M w."""
    for i in range(out.shape[0]):
        total = 0.0 if hull.slack[i] < 0 else w[hull.slack[i]]
        for k in range(hull.row_start[i], hull.row_start[i + 1]):
            total += values[hull.row_entry[k]] * w[hull.column[k]]
        out[i] = total


@compiled
def transposed(hull, values, y, out):
    """M' y."""
    for j in range(hull.structural):
        total = 0.0
        for k in range(hull.column_start[j], hull.column_start[j + 1]):
            total += values[hull.column_entry[k]] * y[hull.row[k]]
        out[j] = total
    for i in range(y.shape[0]):
        if hull.slack[i] >= 0:
            out[hull.slack[i]] = y[i]


@compiled
def residual(hull, values, right, w, out):
    """right - M w."""
    times(hull, values, w, out)
    for i in range(out.shape[0]):
        out[i] = right[i] - out[i]


@compiled
def dual_residual(hull, values, linear, y, out):
    """linear - M' y."""
    transposed(hull, values, y, out)
    for j in range(out.shape[0]):
        out[j] = linear[j] - out[j]


@compiled
def cholesky(matrix, size):
    """In place, of the upper triangle; zeros stay free. False: not positive definite."""
    for k in range(size):
        upper = matrix[k]
        if not upper[k] > 0.0:
            return False
        root = sqrt(upper[k])
        upper[k] = root
        for j in range(k + 1, size):
            upper[j] /= root
        for i in range(k + 1, size):
            factor = upper[i]
            if factor != 0.0:
                lower = matrix[i]
                for j in range(i, size):
                    lower[j] -= factor * upper[j]
    return True


@compiled
def substitute(matrix, size, right):
    """The solution in place of a right side, by a Cholesky factor."""
    for k in range(size):
        upper = matrix[k]
        known = right[k] / upper[k]
        right[k] = known
        if known != 0.0:
            for j in range(k + 1, size):
                right[j] -= known * upper[j]
    for k in range(size - 1, -1, -1):
        upper = matrix[k]
        total = right[k]
        for j in range(k + 1, size):
            total -= upper[j] * right[j]
        right[k] = total / upper[k]


@compiled
def factor_schur(hull, values, tol, space, floor):
    """S = M diag(d) M' + floor of the rows that take part; of others, 1. False: it has no factor."""
    matrix, d, take, rows = space.matrix, space.d, space.take, space.primal.shape[0]
    ridge = tol.ridge
    while True:
        for i in range(rows):
            for k in range(i, rows):
                matrix[i, k] = 0.0
            matrix[i, i] = floor if take[i] else 1.0
            if take[i] and hull.slack[i] >= 0:
                matrix[i, i] += d[hull.slack[i]]
        for j in range(hull.structural):
            if d[j] == 0.0:
                continue
            for a in range(hull.column_start[j], hull.column_start[j + 1]):
                i = hull.row[a]
                if take[i]:
                    scaled = d[j] * values[hull.column_entry[a]]
                    for b in range(a, hull.column_start[j + 1]):
                        if take[hull.row[b]]:
                            matrix[i, hull.row[b]] += scaled * values[hull.column_entry[b]]
        for i in range(rows):
            matrix[i, i] *= 1.0 + ridge
        if cholesky(matrix, rows):
            return True
        if not ridge < tol.largest_ridge:
            return False
        ridge *= tol.ridge_growth


@compiled
def solve_schur(hull, values, space, p, q, dw, dy):
    """dw and dy where all rows take part."""
    d = space.d
    for j in range(d.shape[0]):
        dw[j] = d[j] * p[j]
    times(hull, values, dw, dy)
    for i in range(dy.shape[0]):
        dy[i] -= q[i]
    substitute(space.matrix, dy.shape[0], dy)
    dual_residual(hull, values, p, dy, dw)
    for j in range(d.shape[0]):
        dw[j] *= d[j]


@compiled
def _form_condensed(hull, values, tol, space):
    """K = diag(1 / d) + G' diag(1 / d_slack) G, the upper triangle."""
    matrix, d, size, most = space.matrix, space.d, hull.structural, tol.largest_reciprocal
    for j in range(size):
        for k in range(j, size):
            matrix[j, k] = 0.0
        matrix[j, j] = min(1.0 / d[j], most)
    for i in range(hull.slack.shape[0]):
        if hull.slack[i] < 0:
            continue
        weight = min(1.0 / d[hull.slack[i]], most)
        for a in range(hull.row_start[i], hull.row_start[i + 1]):
            scaled = weight * values[hull.row_entry[a]]
            for b in range(a, hull.row_start[i + 1]):
                matrix[hull.column[a], hull.column[b]] += scaled * values[hull.row_entry[b]]


@compiled
def factor_condensed(hull, values, tol, space):
    """K and the Schur complement of the equalities in it. False: they have no factor."""
    matrix, size, ridge = space.matrix, hull.structural, tol.ridge
    while True:
        _form_condensed(hull, values, tol, space)
        for j in range(size):
            matrix[j, j] *= 1.0 + ridge
        if cholesky(matrix, size):
            break
        if not ridge < tol.largest_ridge:
            return False
        ridge *= tol.ridge_growth
    equal = 0
    for i in range(hull.slack.shape[0]):
        if hull.slack[i] < 0:
            spread = space.spread[equal]
            spread[:] = 0.0
            for k in range(hull.row_start[i], hull.row_start[i + 1]):
                spread[hull.column[k]] = values[hull.row_entry[k]]
            substitute(matrix, size, spread)
            equal += 1
    ridge = tol.ridge
    while equal:
        a = 0
        for i in range(hull.slack.shape[0]):
            if hull.slack[i] < 0:
                for b in range(a, equal):
                    total = 0.0
                    for k in range(hull.row_start[i], hull.row_start[i + 1]):
                        total += values[hull.row_entry[k]] * space.spread[b, hull.column[k]]
                    space.inner[a, b] = total
                space.inner[a, a] *= 1.0 + ridge
                a += 1
        if cholesky(space.inner, equal):
            break
        if not ridge < tol.largest_ridge:
            return False
        ridge *= tol.ridge_growth
    return True


@compiled
def solve_condensed(hull, values, tol, space, p, q, dw, dy):
    """dw and dy by the condensed system."""
    d, size, rows, most = space.d, hull.structural, hull.slack.shape[0], tol.largest_reciprocal
    for j in range(size):
        dw[j] = p[j]
    for i in range(rows):
        j = hull.slack[i]
        if j >= 0:
            push = p[j] - min(1.0 / d[j], most) * q[i]
            for k in range(hull.row_start[i], hull.row_start[i + 1]):
                dw[hull.column[k]] -= push * values[hull.row_entry[k]]
    substitute(space.matrix, size, dw)
    equal = 0
    for i in range(rows):
        if hull.slack[i] < 0:
            total = -q[i]
            for k in range(hull.row_start[i], hull.row_start[i + 1]):
                total += values[hull.row_entry[k]] * dw[hull.column[k]]
            space.row[equal] = total
            equal += 1
    if equal:
        substitute(space.inner, equal, space.row)
        for a in range(equal):
            for j in range(size):
                dw[j] -= space.row[a] * space.spread[a, j]
    equal = 0
    for i in range(rows):
        j = hull.slack[i]
        if j < 0:
            dy[i] = space.row[equal]
            equal += 1
        else:
            total = q[i]
            for k in range(hull.row_start[i], hull.row_start[i + 1]):
                total -= values[hull.row_entry[k]] * dw[hull.column[k]]
            dw[j] = total
            dy[i] = p[j] - min(1.0 / d[j], most) * total


@compiled
def factor(hull, values, tol, space):
    """For d, all positive and finite, by the smaller of the two matrices."""
    if hull.condensed:
        return factor_condensed(hull, values, tol, space)
    space.take[:] = True
    return factor_schur(hull, values, tol, space, 0.0)


@compiled
def solve(hull, values, tol, space, p, q, dw, dy):
    """By what ``factor`` made."""
    if hull.condensed:
        solve_condensed(hull, values, tol, space, p, q, dw, dy)
    else:
        solve_schur(hull, values, space, p, q, dw, dy)


@compiled
def larger(found, value):
    """The larger of two numbers, NaN if one is."""
    return value if found == found and not value <= found else found
