"""The elimination of ``tree_elimination.py`` and its derivatives, element by element, with all that prepares it.

Whether weights keep within the range of float64 is seen in the sum itself, so nothing is looked at beforehand: with
weights into every vertex that sum to 1, trees with a certain edge weigh no more than this edge. Elements out of range
are told apart, and what stands in their rows is no answer.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled

_LOST = 560.0  # as in tree_elimination.py
_RANGE = 500.0  # largest log of the sum, while weights into a vertex sum to 1: trees with a lost edge do not count
_ABSENT = -5e29  # half of ABSENT


@compiled
def sums(w, single_root, total, far):
    """log of the sum over trees of log-weights ``(batch, n, n)``; which elements are out of range."""
    n = w.shape[1]
    weights, factors, mass, order = np.empty((n, n)), np.empty((n, n)), np.empty(n), np.empty(n, np.int64)
    for b in range(len(w)):
        shift = _weights(w[b], single_root, order, weights)
        log = _factors(weights, single_root, factors, mass)
        total[b], far[b] = shift + log, not abs(log) < _RANGE


@compiled
def marginals(w, single_root, x, far):
    """Its gradient."""
    n = w.shape[1]
    weights, factors, mass, order = np.empty((n, n)), np.empty((n, n)), np.empty(n), np.empty(n, np.int64)
    y, across, q = np.empty((n, n)), np.empty((n, n)), np.empty(n)
    for b in range(len(w)):
        _weights(w[b], single_root, order, weights)
        far[b] = not abs(_factors(weights, single_root, factors, mass)) < _RANGE
        _adjoint(factors, mass, single_root, y, across, q)
        for i in range(n):
            for j in range(n):
                share = weights[i, j] * y[i, j] if weights[i, j] else 0.0
                x[b, order[i], order[j]] = share
                far[b] |= not (-0.1 < share < 1.1)


@compiled
def product(w, v, single_root, out, far):
    """The Jacobian of the marginals, which is symmetric, times ``v``."""
    n = w.shape[1]
    weights, factors, mass, order = np.empty((n, n)), np.empty((n, n)), np.empty(n), np.empty(n, np.int64)
    y, across, q, along = np.empty((n, n)), np.empty((n, n)), np.empty(n), np.empty((n, n))
    dy, dacross, dq, growth = np.empty((n, n)), np.empty((n, n)), np.empty(n), np.empty(n)
    for b in range(len(w)):
        _weights(w[b], single_root, order, weights)
        far[b] = not abs(_factors(weights, single_root, factors, mass)) < _RANGE
        _adjoint(factors, mass, single_root, y, across, q)
        for i in range(n):
            for j in range(n):
                along[i, j] = weights[i, j] * v[b, order[i], order[j]] if weights[i, j] else 0.0
                out[b, order[i], order[j]] = along[i, j] * y[i, j]
        _factors_along(factors, mass, single_root, along, growth)
        _adjoint_along(factors, mass, single_root, y, across, along, growth, dy, dacross, q, dq)
        for i in range(n):
            for j in range(n):
                if weights[i, j]:
                    out[b, order[i], order[j]] += weights[i, j] * dy[i, j]
                far[b] |= not np.isfinite(out[b, order[i], order[j]])


@compiled
def _weights(w, single_root, order, weights):
    """Weights that sum to 1 into every vertex, and the log of what this takes off every tree.

    A single root's edges do not count in the sum: the best of them is 1. The first vertex after it is one whose edge
    from it is heavy beside its others.
    """
    n = w.shape[0]
    best = np.full(n, -1e30)
    for i in range(single_root, n):
        for j in range(1, n):
            if i != j and w[i, j] > best[j]:
                best[j] = w[i, j]
    for j in range(n):
        order[j] = j
    root, scale = 0.0, np.zeros(n)
    if single_root:
        start = 1
        for j in range(2, n):
            if w[0, j] - best[j] > w[0, start] - best[start]:
                start = j
        order[1], order[start] = start, 1
    for j in range(1, n):
        if best[j] < _ABSENT:
            best[j] = 0.0
    for i in range(n):
        for j in range(n):
            weights[i, j] = 0.0
            if i != j and j > 0:
                log = w[order[i], order[j]] - best[order[j]]
                if i >= single_root and log > -_LOST:
                    weights[i, j] = np.exp(log)
                    scale[j] += weights[i, j]
    shift = 0.0
    for j in range(1, n):
        if scale[j] == 0:  # of a vertex that only a single root enters
            scale[j] = 1.0
        shift += best[j] + np.log(scale[j])
    if single_root:
        root = -np.inf
        for j in range(1, n):
            root = max(root, w[0, order[j]] - best[order[j]])
        for j in range(1, n):
            log = w[0, order[j]] - best[order[j]] - root
            weights[0, j] = np.exp(log) if log > -_LOST else 0.0
        shift += root
    for i in range(n):
        for j in range(1, n):
            weights[i, j] /= scale[j]
    return shift


@compiled
def _factors(weights, last, factors, mass):
    """Eliminate: p above the diagonal, o below it; and the masses S. Returns log of the sum over trees."""
    n, log = weights.shape[0], 0.0
    factors[:] = weights
    for v in range(n - 1, last, -1):
        mass[v] = 0.0
        for i in range(last, v):
            mass[v] += factors[i, v]
        log += np.log(mass[v])
        for i in range(v):
            factors[i, v] /= mass[v]
            _add(factors[i], factors[i, v], factors[v], v)
    return log + np.log(factors[0, 1]) if last else log


@compiled
def _adjoint(factors, mass, last, y, across, q):
    """Y; and across, its transpose, for sums along rows alone, which the processor takes several at once."""
    n = factors.shape[0]
    y[:] = 0.0
    across[:] = 0.0
    if last:
        y[0, 1] = across[1, 0] = 1 / factors[0, 1]
    for v in range(last + 1, n):
        _times(across, factors[v], v, q)
        own, both = y[v], 0.0
        for i in range(v):
            both += factors[i, v] * q[i]
            _add(own, factors[i, v], y[i], v)
        for i in range(v):
            across[i, v] = own[i]
            y[i, v] = across[v, i] = (q[i] + (1 - both if i >= last else 0.0)) / mass[v]


@compiled
def _factors_along(factors, mass, last, along, growth):
    """Derivatives of p and o in place of those of the weights, and of log S."""
    for v in range(factors.shape[0] - 1, last, -1):
        total = 0.0
        for i in range(last, v):
            total += along[i, v]
        growth[v] = total / mass[v]
        for i in range(v):
            p = factors[i, v]
            dp = along[i, v] / mass[v] - p * growth[v]
            along[i, v] = dp
            _add(along[i], dp, factors[v], v)
            _add(along[i], p, along[v], v)


@compiled
def _adjoint_along(factors, mass, last, y, across, along, growth, dy, dacross, q, dq):
    n = factors.shape[0]
    dy[:] = 0.0
    dacross[:] = 0.0
    if last:
        dy[0, 1] = dacross[1, 0] = -along[0, 1] * y[0, 1] * y[0, 1]  # in this order: no square is too small
    for v in range(last + 1, n):
        _times(across, along[v], v, dq)
        _times(dacross, factors[v], v, q)
        for i in range(v):
            dq[i] += q[i]
        _times(across, factors[v], v, q)
        own, both = dy[v], 0.0
        for i in range(v):
            both += along[i, v] * q[i] + factors[i, v] * dq[i]
            _add(own, factors[i, v], dy[i], v)
            _add(own, along[i, v], y[i], v)
        for i in range(v):
            dacross[i, v] = own[i]
            moved = (dq[i] - (both if i >= last else 0.0)) / mass[v] - y[i, v] * growth[v]
            dy[i, v] = dacross[v, i] = moved


@compiled
def _times(across, o, n, q):
    """q = Y o, from Y's transpose; n entries."""
    q[:n] = 0.0
    for j in range(1, n):
        _add(q, o[j], across[j], n)


@compiled
def _add(a, factor, b, n):
    """a += factor b, n entries."""
    if factor:
        for j in range(n):
            a[j] += factor * b[j]
