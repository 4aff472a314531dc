"""Threshold maps in a pass or two over each row: loops of ``threshold``, ``fixed_threshold`` and ``threshold_by_row``.

Every row has a total and, of Tsallis entropies, a q = alpha - 1 of its own (arrays of one number serve all rows). With
s_i = u_i - centre, centre the k-th largest entry, k = ceil(total), a Tsallis entropy (Euclidean: q = 1) has

    x_i = min(max(1 + q (s_i - nu), 0), 1)^(1/q),    0 <= nu <= (1 - r^q) / q,    r = (total - k + 1) / (n - k + 1):

at nu = 0 the k largest are at 1; and as x_k is the largest of the n - k + 1 entries that share at least total - k + 1,
x_k >= r. Entries that are 0 or 1 at both ends of a bracket leave the search as it shrinks.

Over 300 lines on purpose: one search, whose loops call one another.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from sst_cvx.native import compiled

TSALLIS, CATEGORICAL, BINARY = 0, 1, 2
_EPS = 2.0**-52
_SAMPLED = 4096  # entries from which a sixteenth of them finds where to start
MOST = 600.0  # exponent, of entries that are at 1 anyway
MOST_SLOPE = 1e100  # of entries next to 0, alpha > 2

#: Of loops that only add: in any order, four at a time.
_summed: Any = functools.partial(compiled, fastmath={"reassoc"})


@compiled
def threshold_rows(u, totals, qs, centres, kind, box, x, tight):
    """x ``(rows, n)`` for utilities ``(rows, n)``, and which rows have their sum from the total, ``(rows,)``.

    ``centres``: the k-th largest utilities, and x holds exp(u - centre) already, where these are used; or empty.
    ``box``, if finite: phi'(1) (of the binary entropy: 0); the box's solution where its sum is at most the total.
    """
    rows, n = u.shape
    s, rest, up_to = np.empty(n), np.empty(n), math.isfinite(box)
    for r in range(rows):
        total, q = totals[r if totals.size > 1 else 0], qs[r if qs.size > 1 else 0]
        tight[r] = True
        if total <= 0 or (total >= n and not up_to):
            x[r] = 0.0 if total <= 0 else 1.0
            continue
        if up_to and _box_mass(u[r], q, kind, box, s) <= total:
            tight[r] = False
            x[r] = s
            continue
        k = math.ceil(total)  # an integer
        centre = centres[r] if centres.size else kth_largest(u[r], k, rest)
        if kind == TSALLIS:
            if q > 1:
                _steep_row(u[r], total, q, centre, s, x[r])
            else:
                _tsallis_row(u[r], total, q, centre, k, s, x[r])
            continue
        if centres.size:
            s[:] = x[r]
        else:
            for i in range(n):
                s[i] = math.exp(min(u[r, i] - centre, MOST))
        if kind == CATEGORICAL:
            _categorical_row(s, total, rest, x[r])
        else:
            _binary_row(s, total, k, rest, x[r])


@compiled
def _box_mass(u, q, kind, origin, x):
    """x_i = g(u_i) over the box, and their sum."""
    mass = 0.0
    for i in range(u.size):
        if kind == BINARY:
            e = math.exp(-abs(u[i]))
            x[i] = (1.0 if u[i] > 0 else e) / (1.0 + e)
        else:
            x[i] = _deformed(u[i] - origin, q)
        mass += x[i]
    return mass


@compiled
def kth_largest(row, k, scratch):
    """Quickselect (Hoare), by medians of three."""
    n = row.size
    if k == 1:
        top = row[0]
        for i in range(1, n):
            top = max(top, row[i])
        return float(top)
    for i in range(n):
        scratch[i] = row[i]
    low, high, at = 0, n - 1, n - k
    while low < high:
        a, b, c = scratch[low], scratch[(low + high) >> 1], scratch[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while scratch[i] < pivot:
                i += 1
            while scratch[j] > pivot:
                j -= 1
            if i <= j:
                scratch[i], scratch[j] = scratch[j], scratch[i]
                i += 1
                j -= 1
        if at <= j:
            high = j
        elif at >= i:
            low = i
        else:
            break
    return scratch[at]


@compiled
def _deformed(d, q):
    """min(max(1 + q d, 0), 1)^(1/q), exp(min(d, 0)) for q = 0."""
    if d >= 0:
        return 1.0
    z = 1.0 + q * d
    if z <= 0:
        return 0.0
    if q == 1.0:
        return z
    if q == 0.5:
        return z * z
    if q == 0.0:
        return math.exp(d)
    if -0.1 < q < 0.1:
        return math.exp(math.log1p(q * d) / q)
    return z ** (1.0 / q)


@compiled
def _tsallis_row(u, total, q, centre, k, s, x):
    """q <= 1: Newton's steps in a bracket; from its lower end they never overshoot where no entry is at 1."""
    n = u.size
    room = (total - k + 1.0) / (n - k + 1.0)
    low, high = 0.0, (-math.log(room) if q == 0.0 else -math.expm1(q * math.log(room)) / q) * (1 + 4 * _EPS)
    reach = 1.0 / q if q > 0 else np.inf
    count, ones = 0, 0
    for i in range(n):
        d = u[i] - centre
        s[count] = d
        ones += d >= high
        count += (d < high) & (d > -reach)
    nu = 0.0
    if ones + count > total:  # else a vertex
        nu = low if total <= 1 else 0.5 * (low + high)
        if count >= _SAMPLED:  # where most of them would have it
            some = s[:count:16].copy()
            nu = _tsallis_root(some, some.size, (total - ones) / 16, q, low, high, nu, 1e-6 * total)
        nu = _tsallis_root(s, count, total - ones, q, low, high, nu, 2 * _EPS * total)
    if q == 1.0:
        for i in range(n):
            x[i] = min(max(1.0 + ((u[i] - centre) - nu), 0.0), 1.0)
    elif q == 0.5:
        for i in range(n):
            z = min(max(1.0 + 0.5 * ((u[i] - centre) - nu), 0.0), 1.0)
            x[i] = z * z
    else:
        for i in range(n):
            x[i] = _deformed((u[i] - centre) - nu, q)


@compiled
def _tsallis_root(s, count, left, q, low, high, nu, tolerance):
    """From nu on, where the ``count`` entries of s, which is used up, sum to ``left``."""
    reach = 1.0 / q if q > 0 else np.inf
    for step in range(200):
        mass, slope = 0.0, 0.0
        for i in range(count):
            d = s[i] - nu
            if d >= 0:
                mass += 1.0
            elif d > -reach:
                v = _deformed(d, q)
                mass += v
                slope += v / (1.0 + q * d)
        excess = mass - left
        if abs(excess) <= tolerance:
            break
        if excess > 0:
            low = nu
        else:
            high = nu
        newton = nu + excess / slope
        if not low < newton < high or (step > 10 and step % 2):
            newton = 0.5 * (low + high)
        if newton == nu or not low < newton < high:
            break
        nu, kept = newton, 0
        for i in range(count):
            d = s[i]
            s[kept] = d
            if d >= high:
                left -= 1.0
            elif d > low - reach:
                kept += 1
        count = kept
    return nu


@compiled
def _steep_row(u, total, q, centre, s, x):
    """q > 1, where x has an infinite slope at 0: with c_i = q (s_i - s_j) and x_j = y, s_j the least entry above 0,

        x_i = min(c_i + y^q, 1)^(1/q),

    as well known as y, however small. j is the last of the sorted entries with sum_i min(c_i, 1)^(1/q) < total.
    """
    n, count, ones, p = u.size, 0, 0, 1.0 / q
    for i in range(n):
        d = u[i] - centre
        s[count] = d
        ones += d >= p
        count += (d < p) & (d > -p)
    left = total - ones
    order = np.sort(s[:count])[::-1]
    first, last = 0, count  # the mass at order[first] is below, at order[last] not
    while last - first > 1:
        middle = (first + last) >> 1
        mass = 0.0
        for i in range(middle):
            mass += min(q * (order[i] - order[middle]), 1.0) ** p
        if mass < left:
            first = middle
        else:
            last = middle
    least = order[first]
    low, high = 0.0, 1.0
    if last < count:
        high = min(q * (least - order[last]), 1.0) ** p
    y = high
    for step in range(200):
        mass, slope, power = 0.0, 0.0, y**q
        for i in range(last):
            c = q * (order[i] - least)
            if c + power >= 1:
                mass += 1.0
            elif c == 0:
                mass += y
                slope += 1.0
            else:
                v = (c + power) ** p
                mass += v
                slope += (y / v) ** (q - 1.0)
        excess = mass - left
        if abs(excess) <= 2 * _EPS * total:
            break
        if excess > 0:
            high = y
        else:
            low = y
        newton = y - excess / slope
        if not low < newton < high or (step > 10 and step % 2):
            newton = 0.5 * (low + high)
        if newton == y or not low < newton < high:
            break
        y = newton
    power = y**q
    for i in range(n):
        c = q * ((u[i] - centre) - least)
        if c < 0:
            x[i] = 0.0
        elif c == 0:
            x[i] = y
        else:
            x[i] = min(c + power, 1.0) ** p


@compiled
def _categorical_row(weight, total, above, x):
    """x_i = min(1, (total - c) exp(s_i) / (sum of those below 1)): entries join the c at 1 until none is above."""
    beyond, count = 0.0, 0
    for w in weight:
        above[count] = w
        beyond += w if w <= 1 else 0.0
        count += w > 1  # k - 1 at most
    left = total
    while True:
        rest = beyond
        for i in range(count):
            rest += above[i]
        share, kept = left / rest, 0
        for i in range(count):
            above[kept] = above[i]
            kept += above[i] * share <= 1 + 8 * _EPS
        if kept == count:
            break
        left, count = left - (count - kept), kept
    for i in range(weight.size):
        x[i] = min(weight[i] * share, 1.0)


@compiled
def _binary_row(weight, total, k, sides, x):
    """x_i = e_i / (e_i + y) with e_i = exp(s_i). What the k largest lack to 1 and what the others have,

        A = sum_largest y / (e_i + y),  B = sum_others e_i / (e_i + y),  A = B + k - total at the root:

    Newton's method on log(B + k - total) - log A over log y, whose slope is in [-2, -1] for an integer total, in the
    bracket min(largest other e_i, 1 / 2k) <= y <= (n - k + 1) / (total - k + 1).
    """
    n = weight.size
    head, tail, top = 0, n, 0.0
    for e in weight:
        if e > 1:
            sides[head] = e
            head += 1
        elif e < 1:
            tail -= 1
            sides[tail] = e
            top = max(top, e)
    inside = k - head  # of those that are equal to the k-th
    outside = tail - k
    top, lack = 1.0 if outside else top, k - total
    low, high = math.log(max(min(top, 0.5 / k), 1e-300)), math.log((n - k + 1.0) / (total - k + 1.0))
    at = min(max(0.5 * math.log(max(top, 1e-300)), low), high)
    if n >= _SAMPLED:  # where most of them would have it
        at = _binary_root(sides[:head:16], sides[tail::16], inside / 16, outside / 16, lack / 16, low, high, at, 1e-3)
    y = math.exp(_binary_root(sides[:head], sides[tail:], inside, outside, lack, low, high, at, 4 * _EPS))
    for i in range(n):
        x[i] = weight[i] / (weight[i] + y)


@compiled
def _binary_root(largest, others, inside, outside, lack, low, high, at, tolerance):
    for _ in range(100):
        y = math.exp(at)
        tied = y / (1.0 + y)
        a, a_square = _shares(1.0 / y, largest)
        b, b_square = _shares_of(others, y)
        a, a_square = a + inside * tied, a_square + inside * tied * tied
        b, b_square = b + outside * (1.0 - tied) + lack, b_square + outside * (1.0 - tied) ** 2
        if b <= 0 or a <= 0:
            break
        h = math.log(b / a)
        if abs(h) <= tolerance:
            break
        if h > 0:
            low = at
        else:
            high = at
        newton = at + h / ((b - lack - b_square) / b + (a - a_square) / a)
        if not low < newton < high:
            newton = 0.5 * (low + high)
        if newton == at or not low < newton < high:
            break
        at = newton
    return at


@_summed
def _shares(rate, e):
    """The sum of v_i = 1 / (1 + rate e_i), and of their squares."""
    mass, square = 0.0, 0.0
    for i in range(e.size):
        v = 1.0 / (1.0 + rate * e[i])
        mass += v
        square += v * v
    return mass, square


@_summed
def _shares_of(e, y):
    """The sum of v_i = e_i / (e_i + y), and of their squares."""
    mass, square = 0.0, 0.0
    for i in range(e.size):
        v = e[i] / (e[i] + y)
        mass += v
        square += v * v
    return mass, square


@compiled
def jacobian_rows(x, v, qs, tight, kind, g):
    """g = w (v - mean), mean = sum w v / sum w (0 where not ``tight``), for points, vectors and g ``(rows, n)``."""
    rows, n = x.shape
    w = np.empty(n)
    for r in range(rows):
        q = qs[r if qs.size > 1 else 0]
        if not tight[r if tight.size > 1 else 0]:
            for i in range(n):
                g[r, i] = _slope(x[r, i], q, kind) * v[r, i]
            continue
        mass, moment, top, at = 0.0, 0.0, 0.0, 0
        for i in range(n):
            w[i] = _slope(x[r, i], q, kind)
            mass += w[i]
            if w[i] > top:
                top, at = w[i], i
        shift = float(v[r, at])  # of the largest w, which may be far above the others
        for i in range(n):
            moment += w[i] * (v[r, i] - shift)
        mean = moment / mass if mass > 0 else 0.0
        for i in range(n):
            g[r, i] = w[i] * ((v[r, i] - shift) - mean)


@compiled
def _slope(x, q, kind):
    """dx_i / du_i at a fixed threshold, 1 / phi''(x_i) between 0 and 1, as a function of x_i."""
    if not 0 < x < 1:
        return 0.0
    if kind == CATEGORICAL:
        return float(x)
    if kind == BINARY:
        return x * (1.0 - x)
    if q == 1.0:
        return 1.0
    if q == 0.5:
        return math.sqrt(x)
    return min(x ** (1.0 - q), MOST_SLOPE)
