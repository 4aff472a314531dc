"""Entropic perfect matchings and their Jacobian, compiled: a whole solve in one call, element by element.

The twin of ``matching_newton.py``, where the method stands, with plain Sinkhorn steps at the start of each stage, while
their rate says that they get there sooner than Newton's: these scale rows and columns of X, without exponentials.
Of L, the upper triangle counts, so that all inner loops go along rows.
"""

from __future__ import annotations

import math

import numpy as np

from sst_cvx.native import compiled

_FIRST_RANGE = 16.0  # range of the utilities at the first stage
_STAGE = 4.0  # growth of the scale from one stage to the next
_RIDGE = 1e-14
_TRIAL = 6  # plain steps after which their rate is known
_PATIENCE = 50  # plain steps (and one a column) that cost as much as a few of Newton's
_FAR = 1e50  # scales beyond which rows and columns are not scaled


@compiled
def point(u, scale, b, x, column):
    """X for multipliers b, rows of sum 1, its column sums; phi(b), and by how much these are off."""
    n = len(b)
    value, error = 0.0, 0.0
    for j in range(n):
        column[j] = 0.0
        value += b[j]
    for i in range(n):
        most = -np.inf
        for j in range(n):
            x[i, j] = scale * u[i, j] - b[j]
            most = max(most, x[i, j])
        total = 0.0
        for j in range(n):
            x[i, j] = math.exp(x[i, j] - most)
            total += x[i, j]
        value += most + math.log(total)
        for j in range(n):
            x[i, j] /= total
            column[j] += x[i, j]
    for j in range(n):
        error = max(error, abs(column[j] - 1))
    return value, error


@compiled
def factor(x, column, L):
    """Cholesky's factor U (U'U) of the Laplacian diag(c) - X'X + 11'/n + ridge, upper; False where there is none."""
    n = len(column)
    for j in range(n):
        for k in range(j, n):
            L[j, k] = 1.0 / n
    for i in range(n):
        for j in range(n):
            for k in range(j, n):
                L[j, k] -= x[i, j] * x[i, k]
    for j in range(n):
        L[j, j] += column[j] + _RIDGE
    for k in range(n):
        if not L[k, k] > 0:
            return False
        d = 1 / math.sqrt(L[k, k])
        for j in range(k, n):
            L[k, j] *= d
        for i in range(k + 1, n):
            for j in range(i, n):
                L[i, j] -= L[k, i] * L[k, j]
    return True


@compiled
def substitute(L, y):
    """(U'U)^-1 y in place."""
    n = len(y)
    for k in range(n):
        y[k] /= L[k, k]
        for j in range(k + 1, n):
            y[j] -= L[k, j] * y[k]
    for k in range(n - 1, -1, -1):
        rest = y[k]
        for j in range(k + 1, n):
            rest -= L[k, j] * y[j]
        y[k] = rest / L[k, k]


@compiled
def scale_plainly(x, target, b, column, columns, rows):
    """Sinkhorn's steps by scaling, while their rate promises the target soon; the error. x, b, column follow.

    ``columns``, ``rows``: room for the scales.
    """
    n = len(b)
    before, error, steps, good = np.inf, np.inf, 0, True
    for j in range(n):
        columns[j] = 1.0
    while good:
        for i in range(n):
            total = 0.0
            for j in range(n):
                total += x[i, j] * columns[j]
            rows[i] = 1 / total
        for j in range(n):
            column[j] = 0.0
        for i in range(n):
            for j in range(n):
                column[j] += x[i, j] * rows[i]
        error = 0.0
        for j in range(n):
            error = max(error, abs(column[j] * columns[j] - 1))
        steps += 1
        if error <= target or not error < np.inf:
            break
        if steps >= _TRIAL:
            good = error < before and steps + math.log(target / error) / math.log(error / before) < _PATIENCE + n
        before = error
        for j in range(n):
            scale = 1 / column[j]
            if not 1 / _FAR < scale < _FAR:
                good = False
        if good:
            for j in range(n):
                columns[j] = 1 / column[j]
    error = 0.0
    for j in range(n):
        column[j] = 0.0
    for i in range(n):
        for j in range(n):
            x[i, j] *= rows[i] * columns[j]
            column[j] += x[i, j]
    for j in range(n):
        b[j] -= math.log(columns[j])
        error = max(error, abs(column[j] - 1))
    return error


@compiled
def fits(column):
    """Whether columns can be scaled."""
    good = True
    for j in range(len(column)):
        good = good and column[j] > 1 / _FAR
    return good


@compiled
def newton(u, scale, b, x, column, value, error, direction, L, best, other):
    """Newton's step from X, b, column, where it lowers phi (or is near the end), else Sinkhorn's; phi and the error."""
    n = len(b)
    usable = factor(x, column, L)
    if usable:
        longest, slope = 0.0, 0.0
        for j in range(n):
            direction[j] = column[j] - 1
        substitute(L, direction)
        for j in range(n):
            usable = usable and abs(direction[j]) < np.inf
            longest = max(longest, abs(direction[j]))
        for j in range(n):
            direction[j] *= 4.0 / max(longest, 4.0)
            slope += (1 - column[j]) * direction[j]
    length, trials = 1.0, 0
    for j in range(n):
        best[j], other[j] = b[j], column[j]
    while True:
        usable = usable and trials < 8
        for j in range(n):
            b[j] = best[j] + (length * direction[j] if usable else max(math.log(other[j]), -700.0))
        found, off = point(u, scale, b, x, column)
        if not usable or error <= 1e-3 or found <= value + 1e-4 * length * slope:
            return found, off
        length, trials = 0.5 * length, trials + 1


@compiled
def shift(utilities, u):
    """Utilities less the largest of their row, then of their column; how far they are apart."""
    n = len(u)
    spread, finite = 0.0, True
    for i in range(n):
        most = -np.inf
        for j in range(n):
            most = max(most, utilities[i, j])
        for j in range(n):
            u[i, j] = utilities[i, j] - most
    for j in range(n):
        most = -np.inf
        for i in range(n):
            most = max(most, u[i, j])
        for i in range(n):
            u[i, j] -= most
            spread = max(spread, abs(u[i, j]))
            finite = finite and abs(u[i, j]) < np.inf
    return spread if finite else np.inf


@compiled
def solve(utilities, answers, done, largest_range, most_steps):
    """X for utilities ``(batch, n, n)``, into answers; and which converged. In a single step, none is Newton's."""
    batch, n = utilities.shape[:2]
    u, x, L = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    b, column, direction, best, other = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for element in range(batch):
        spread = shift(utilities[element], u)
        done[element] = False
        if not spread <= largest_range:
            continue
        tolerance = 4 * 2.220446049250313e-16 * (n + spread)
        scale = _FIRST_RANGE / max(spread, _FIRST_RANGE)
        for j in range(n):
            b[j] = 0.0
        value, error = point(u, scale, b, x, column)
        plain = 3  # of Sinkhorn's steps to be tried at this scale
        for _ in range(most_steps):
            if scale == 1 and error <= tolerance:
                break
            again = True
            if scale < 1 and error <= 0.1:
                grown = min(scale * _STAGE, 1.0)
                for j in range(n):
                    b[j] *= grown / scale
                scale, plain = grown, 3
            elif plain and fits(column):
                target = tolerance if scale == 1 else 1e-2
                error = scale_plainly(x, target, b, column, direction, other)
                plain, again = 0, not error <= target
            elif plain:
                plain -= 1
                for j in range(n):
                    b[j] += max(math.log(column[j]), -700.0)
            else:
                value, error = newton(u, scale, b, x, column, value, error, direction, L, best, other)
                again = False
            if again:
                value, error = point(u, scale, b, x, column)
        if scale == 1 and error <= tolerance:
            done[element] = True
            for i in range(n):
                for j in range(n):
                    answers[element, i, j] = x[i, j]


@compiled
def pull(answers, cotangents, gradients):
    """The Jacobian at X ``(batch, n, n)`` times V; whether it could be solved for."""
    batch, n = answers.shape[:2]
    x, L = np.empty((n, n)), np.empty((n, n))
    along, beta, column = np.empty(n), np.empty(n), np.empty(n)
    for element in range(batch):
        v, g = cotangents[element], gradients[element]
        for j in range(n):
            column[j], beta[j] = 0.0, 0.0
        for i in range(n):
            total = 0.0
            for j in range(n):
                x[i, j] = answers[element, i, j]
                total += x[i, j]
            along[i] = 0.0
            for j in range(n):
                x[i, j] /= total  # float32 answers: rows sum to 1 again
                column[j] += x[i, j]
                along[i] += x[i, j] * v[i, j]
            for j in range(n):
                beta[j] += x[i, j] * (v[i, j] - along[i])
        if not factor(x, column, L):
            return False
        substitute(L, beta)
        for i in range(n):
            mean = 0.0
            for j in range(n):
                mean += x[i, j] * beta[j]
            for j in range(n):
                g[i, j] = x[i, j] * (v[i, j] - (along[i] - mean) - beta[j])
    return True
