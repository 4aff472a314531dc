"""Sweeps over a directed acyclic hypergraph, one pass over its arcs in the order of their heads, batches innermost.

Arrays are ``(arcs + 1, batch)``, ``(vertices + 1, batch)`` and ``(items + 2, batch)`` as in ``hypergraph_sums``; start,
first, second and item those of ``hypergraph_order.Arcs``.

A log-sum takes three steps over a run of vertices, as in ``dag``: best values, and what each arc misses of them, into
``part``; exponentials of these (by torch); sums and shares. Sums are relative to the best derivation from the run's
beginning, hence at least 1 and at most the number of derivations from there, ``ways``.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled

_WAYS = 1e270  # in one run, of which float64 holds the number


@compiled
def missed(low, start, first, second, item, scores, values, ways, part):  # type: ignore[no-untyped-def]
    """A run of vertices from ``low`` on: the end that it has. ``ways`` is 1 at all other vertices."""
    batch, vertices, v = scores.shape[1], len(start) - 1, low
    while v < vertices and (v == low or start[v + 1] - start[low] <= len(part)):
        count = 0.0
        for j in range(start[v], start[v + 1]):
            count += ways[first[j]] * ways[second[j]]
        if v > low and count > _WAYS:
            break
        ways[v] = count
        for k in range(batch):
            values[v, k] = -np.inf
        for j in range(start[v], start[v + 1]):
            a, b, e, p = first[j], second[j], item[j], j - start[low]
            for k in range(batch):
                term = values[a, k] + values[b, k] + scores[e, k]
                part[p, k] = term
                values[v, k] = max(values[v, k], term)
        for p in range(start[v] - start[low], start[v + 1] - start[low]):
            for k in range(batch):
                part[p, k] -= values[v, k]
        v += 1
    ways[low:v] = 1.0
    return v


@compiled
def shared(low, high, start, first, second, total, part, share):  # type: ignore[no-untyped-def]
    """The run from exponentials to shares and sums, ``total``, which is 1 at all other vertices; no shares if there is
    no room for them."""
    batch = part.shape[1]
    for v in range(low, high):
        for k in range(batch):
            total[v, k] = 0.0
        for j in range(start[v], start[v + 1]):
            a, b, p = first[j], second[j], j - start[low]
            for k in range(batch):
                part[p, k] *= total[a, k] * total[b, k]
                total[v, k] += part[p, k]
        if len(share):
            for j in range(start[v], start[v + 1]):
                p = j - start[low]
                for k in range(batch):
                    share[j, k] = part[p, k] / total[v, k]


@compiled
def linear(up, start, first, second, weight, x):  # type: ignore[no-untyped-def]
    """x at heads += sum over arcs of weight times x at both tails (``up``: at tails, of x at heads), in place; 0 at the
    last row, of tails that are not there."""
    batch, vertices = x.shape[1], len(start) - 1
    for k in range(batch):
        x[vertices, k] = 0.0
    for step in range(vertices):
        v = vertices - 1 - step if up else step
        for j in range(start[v], start[v + 1]):
            a, b = first[j], second[j]
            if up:
                for k in range(batch):
                    part = weight[j, k] * x[v, k]
                    x[a, k] += part
                    x[b, k] += part
            else:
                for k in range(batch):
                    x[v, k] += weight[j, k] * (x[a, k] + x[b, k])
    for k in range(batch):
        x[vertices, k] = 0.0


@compiled
def best(start, first, second, item, scores, values, entered, waiting, x):  # type: ignore[no-untyped-def]
    """A derivation of largest score to each row of ``x``, (batch, items) of zeros; the first of equal arcs everywhere.

    Rows of scores are ``(items + 1,)``, 0 at the end. Scratch, (vertices + 1,): ``values``, 0 at the end; by what arc
    each is entered; vertices that are waiting.
    """
    vertices = len(start) - 1
    for row in range(len(scores)):
        for v in range(vertices):
            most, chosen = -np.inf, start[v]
            for j in range(start[v], start[v + 1]):
                term = values[first[j]] + values[second[j]] + scores[row, item[j]]
                if term > most:
                    most, chosen = term, j
            values[v], entered[v] = most, chosen
        waiting[0], count = vertices - 1, 1
        while count:
            j = entered[waiting[count - 1]]
            if item[j] < x.shape[1]:
                x[row, item[j]] = 1.0
            count = _replaced(waiting, count, vertices, first[j], second[j])


@compiled
def draw(start, first, second, item, share, uniform, waiting, x):  # type: ignore[no-untyped-def]
    """A derivation to each row of ``x`` with the probability that is the product of its arcs' shares, by one uniform
    number less than 1 for each vertex, ``(vertices, batch)``."""
    vertices = len(start) - 1
    for row in range(len(x)):
        waiting[0], count = vertices - 1, 1
        while count:
            v, total = waiting[count - 1], 0.0
            for j in range(start[v], start[v + 1]):
                total += share[j, row]
            j, threshold, total = start[v], uniform[v, row] * total, share[start[v], row]
            while total <= threshold and j + 1 < start[v + 1]:
                j += 1
                total += share[j, row]
            if item[j] < x.shape[1]:
                x[row, item[j]] = 1.0
            count = _replaced(waiting, count, vertices, first[j], second[j])


@compiled
def _replaced(waiting, count, vertices, first, second):  # type: ignore[no-untyped-def]
    """The last of those that wait makes room for the tails that are there; how many wait then."""
    count -= 1
    if first < vertices:
        waiting[count] = first
        count += 1
    if second < vertices:
        waiting[count] = second
        count += 1
    return count
