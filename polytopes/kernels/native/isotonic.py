"""Isotonic regression and soft argmaxes over the permutahedron, compiled: pool-adjacent-violators, row by row.

The twin of ``polytopes/kernels/isotonic.py``, where the formulas stand. Blocks are joined only where the value of the
later one is strictly larger, which leaves the finest blocks.
"""

from __future__ import annotations

import math

import numpy as np

from sst_cvx.native import compiled


@compiled
def _stack(n):
    """Of blocks: where they begin, their totals and values."""
    return np.zeros(n, np.int64), np.zeros(n), np.zeros(n)


@compiled
def _push(start, total, value, top, i, y):
    top += 1
    start[top], total[top], value[top] = i, y, y
    while top > 0 and value[top - 1] < value[top]:
        top -= 1
        total[top] += total[top + 1]
        value[top] = total[top] / (i + 1 - start[top])
    return top


@compiled
def _mark(joined, start, top, n):
    joined[:] = True
    for block in range(top + 1):
        joined[start[block]] = False


@compiled
def join(y, joined):
    """Blocks of means of rows y ``(rows, n)``: which places are in the block of the place before them."""
    rows, n = y.shape
    start, total, value = _stack(n)
    for r in range(rows):
        top = -1
        for i in range(n):
            top = _push(start, total, value, top, i, y[r, i])
        _mark(joined[r], start, top, n)


@compiled
def project(z, order, w, x, joined):
    """x nearest to z ``(rows, n)`` in the hull of the permutations of w ``(n,)``, from the largest; and its blocks.

    ``order``: places of z from the smallest to the largest. ``joined``: as in ``join``, of places from the largest.
    """
    rows, n = z.shape
    start, total, value = _stack(n)
    for r in range(rows):
        top = -1
        for i in range(n):
            top = _push(start, total, value, top, i, z[r, order[r, n - 1 - i]] - w[i])
        for block in range(top + 1):
            begin, end = start[block], start[block + 1] if block < top else n
            first, rest = float(z[r, order[r, n - 1 - begin]]), 0.0
            for i in range(begin, end):
                rest += w[i] - (z[r, order[r, n - 1 - i]] - first)
            rest /= end - begin
            for i in range(begin, end):
                j = order[r, n - 1 - i]
                x[r, j] = (z[r, j] - first) + rest
        _mark(joined[r], start, top, n)


@compiled
def entropic(z, order, w, positive, x, joined):
    """The same for argmax { <z, x> - sum x log x }, of w >= 0, of which ``positive`` >= 1 are positive (or all are 0).

    A block has its first z, the sum of exp (z - first), that of w, and log of (the one / the other) + first.
    """
    rows, n = z.shape
    start, total, value = _stack(n)
    mass, most = np.zeros(n), np.zeros(n)
    for r in range(rows):
        top = -1
        for i in range(positive):
            top += 1
            start[top], mass[top], most[top], total[top] = i, w[i], z[r, order[r, n - 1 - i]], 1.0
            if i == positive - 1:  # places of weight 0 are in the block of the last one that has some
                for k in range(positive, n):
                    total[top] += math.exp(z[r, order[r, n - 1 - k]] - most[top])
            value[top] = most[top] + math.log(total[top]) - math.log(mass[top])
            while top > 0 and value[top - 1] < value[top]:
                top -= 1
                total[top] += total[top + 1] * math.exp(most[top + 1] - most[top])
                mass[top] += mass[top + 1]
                value[top] = most[top] + math.log(total[top]) - math.log(mass[top])
        for block in range(top + 1):
            begin, end = start[block], start[block + 1] if block < top else n
            e = 0.0
            for i in range(begin, end):
                e += math.exp(z[r, order[r, n - 1 - i]] - most[block])
            for i in range(begin, end):
                j = order[r, n - 1 - i]
                x[r, j] = math.exp(z[r, j] - most[block]) / e * mass[block]
        _mark(joined[r], start, top, n)


@compiled
def pull(v, order, joined, x, weighted, g):
    """The Jacobian times v: over each block v less its mean, or, ``weighted``, x (v less its mean by x)."""
    rows, n = v.shape
    for r in range(rows):
        begin = 0
        while begin < n:
            end, total, mass = begin, 0.0, 0.0
            while end < n and (end == begin or joined[r, end]):
                j = order[r, n - 1 - end]
                weight = float(x[r, j]) if weighted else 1.0
                total += weight * v[r, j]
                mass += weight
                end += 1
            mean = total / mass if mass > 0 else 0.0
            for i in range(begin, end):
                j = order[r, n - 1 - i]
                weight = float(x[r, j]) if weighted else 1.0
                g[r, j] = weight * (v[r, j] - mean)
            begin = end
