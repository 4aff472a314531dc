"""Loops of the min-norm-point algorithm for ``sparse_corral.py``, element by element, over the numbers that are not 0.

Vertex s of element b has the values ``value[b, s, :size[b, s]]`` at ``index[b, s, :size[b, s]]``; ``inverse``,
``weights`` and ``used`` are those of ``corral.py``.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled

ADDED, FINISHED, WORSE, STUCK, REFUSED = range(5)  # what becomes of an element that is offered a vertex


@compiled
def move(rows, target, index, value, size, inverse, weights, used, newest, steps, limit, x, lost):
    """Towards the nearest point of the affine hull, dropping vertices whose weights vanish, until none does.

    ``x``: the mixtures. An element that drops its newest vertex has made no progress, and is left there: ``lost``.
    """
    n, slots = target.shape[1], used.shape[1]
    rest, change, ones = np.empty(n), np.empty(slots), np.empty(slots)
    for b in rows:
        lost[b] = False
        while True:
            steps[b] += 1
            _mix(weights[b], index[b], value[b], size[b], used[b], x[b])
            for i in range(n):
                rest[i] = target[b, i] - x[b, i]
            _towards(rest, index[b], value[b], size[b], inverse[b], used[b], change, ones)
            step, slot = 1.0, -1
            for s in range(slots):
                if used[b, s] and weights[b, s] + change[s] <= 0:
                    ratio = weights[b, s] / -min(change[s], -1e-300)
                    if slot < 0 or ratio < step:
                        step, slot = ratio, s
            step, total = min(step, 1.0), 0.0
            for s in range(slots):
                weights[b, s] += step * change[s]
                total += weights[b, s]
            for s in range(slots):
                weights[b, s] /= total  # always a mixture, whatever the digits of the inverse
            if slot < 0:
                break
            lost[b] = slot == newest[b]
            _drop(slot, index[b], value[b], size[b], inverse[b], weights[b], used[b], ones)
            if lost[b] or steps[b] >= limit:
                break
        _mix(weights[b], index[b], value[b], size[b], used[b], x[b])


@compiled
def offer(rows, v, target, x, index, value, size, inverse, used, newest, stalls, limits, told):
    """Add the best vertices ``(rows, n)`` in direction target - x where they gain something.

    ``limits``: the gaps, relative to the size of their terms, that are rounding, that are accepted where there is no
    progress; the number of steps without it; the distance that is independence. Returns whether a vertex has too many
    values for its place, which is to be seen to first: nothing is done then.
    """
    n = target.shape[1]
    if _too_wide(v, index.shape[2]):
        return True
    for r in range(len(rows)):
        b, gap, unit = rows[r], 0.0, 0.0
        for i in range(n):
            g, term = target[b, i] - x[b, i], v[r, i] - x[b, i]
            gap += g * term
            unit += (abs(g) + abs(x[b, i]) + 1.0) * (abs(term) + 0.01)
        over = stalls[b] >= limits[2]
        if gap < -limits[1] * unit:
            told[r] = WORSE
        elif over and not gap <= limits[1] * unit:
            told[r] = STUCK
        elif gap <= limits[0] * unit or over:
            told[r] = FINISHED
        else:
            newest[b] = _add(v[r], index[b], value[b], size[b], inverse[b], used[b], limits[3])
            told[r] = ADDED if newest[b] >= 0 else REFUSED
    return False


@compiled
def add(rows, v, index, value, size, inverse, used, independent, slot):
    """Give vertices ``(rows, n)`` a place, or -1 where they depend on those there; as ``offer``."""
    if _too_wide(v, index.shape[2]):
        return True
    for r in range(len(rows)):
        b = rows[r]
        slot[r] = _add(v[r], index[b], value[b], size[b], inverse[b], used[b], independent)
    return False


@compiled
def beside(rows, r, index, value, size, inverse, used, out):
    """Vectors ``(rows, n)`` less what of them is along the affine hulls."""
    slots = used.shape[1]
    d, ones = np.empty(slots), np.empty(slots)
    for k in range(len(rows)):
        b = rows[k]
        _towards(r[k], index[b], value[b], size[b], inverse[b], used[b], d, ones)
        _mix(d, index[b], value[b], size[b], used[b], out[k])
        for i in range(r.shape[1]):
            out[k, i] = r[k, i] - out[k, i]


@compiled
def gram(rows, n, index, value, size, used, out):
    """H of each, 1 on the diagonal of empty slots."""
    dense, slots = np.zeros(n), used.shape[1]
    for k in range(len(rows)):
        b = rows[k]
        for s in range(slots):
            if not used[b, s]:
                out[k, s] = 0.0
                out[k, :, s] = 0.0
                out[k, s, s] = 1.0
                continue
            for e in range(size[b, s]):
                dense[index[b, s, e]] = value[b, s, e]
            for t in range(s + 1):
                if used[b, t]:
                    out[k, s, t] = out[k, t, s] = 1.0 + _along(dense, index[b, t], value[b, t], size[b, t])
            for e in range(size[b, s]):
                dense[index[b, s, e]] = 0.0


@compiled
def _too_wide(v, width):
    for r in range(len(v)):
        count = 0
        for i in range(v.shape[1]):
            count += v[r, i] != 0
        if count > width:
            return True
    return False


@compiled
def _along(dense, index, value, size):
    total = 0.0
    for e in range(size):
        total += value[e] * dense[index[e]]
    return total


@compiled
def _mix(weights, index, value, size, used, x):
    x[:] = 0.0
    for s in range(len(weights)):
        if used[s] and weights[s] != 0:
            for e in range(size[s]):
                x[index[s, e]] += weights[s] * value[s, e]


@compiled
def _times(inverse, a, used, out):
    out[:] = 0.0
    for s in range(len(a)):
        if used[s]:
            for t in range(len(a)):
                out[t] += a[s] * inverse[s, t]


@compiled
def _towards(w, index, value, size, inverse, used, d, ones):
    """Weights of sum 0 of the mixture nearest to w; and what the inverse makes of ones. As ``weights_towards``."""
    slots = len(used)
    along, one = np.zeros(slots), np.ones(slots)
    _times(inverse, one, used, ones)
    mass, mean = 0.0, 0.0
    for s in range(slots):
        if used[s]:
            along[s] = _along(w, index[s], value[s], size[s])
            mass += ones[s]
            mean += along[s] * ones[s]
    for s in range(slots):
        along[s] -= mean / mass if used[s] else 0.0
    _times(inverse, along, used, d)
    total = d.sum() / mass
    for s in range(slots):
        d[s] -= ones[s] * total


@compiled
def _rank_one(inverse, w, factor, used):
    for s in range(len(w)):
        if w[s] != 0:
            part = w[s] * factor
            for t in range(len(w)):
                inverse[s, t] += part * w[t]


@compiled
def _drop(slot, index, value, size, inverse, weights, used, column):
    for s in range(len(used)):
        column[s] = inverse[slot, s]
    _rank_one(inverse, column, -1 / inverse[slot, slot], used)
    inverse[slot] = 0.0
    inverse[:, slot] = 0.0
    weights[slot], used[slot], size[slot] = 0.0, False, 0


@compiled
def _add(v, index, value, size, inverse, used, independent):
    """Projected twice and measured: as ``Corral.add``. The slot, or -1."""
    n, slots = len(v), len(used)
    slot = 0
    while used[slot]:
        slot += 1
    weights, along, more = np.zeros(slots), np.zeros(slots), np.empty(slots)
    rest, height = v.copy(), 1.0
    for _ in range(2):
        for s in range(slots):
            along[s] = _along(rest, index[s], value[s], size[s]) + height if used[s] else 0.0
        _times(inverse, along, used, more)
        height = 1.0
        for s in range(slots):
            weights[s] += more[s]
            height -= weights[s]
        _mix(weights, index, value, size, used, rest)
        for i in range(n):
            rest[i] = v[i] - rest[i]
    complement = height * height
    for i in range(n):
        complement += rest[i] * rest[i]
    if not complement > independent:
        return -1
    weights[slot] = -1.0
    _rank_one(inverse, weights, 1 / complement, used)
    used[slot], count = True, 0
    for i in range(n):
        if v[i] != 0:
            index[slot, count], value[slot, count] = i, v[i]
            count += 1
    size[slot] = count
    return slot
