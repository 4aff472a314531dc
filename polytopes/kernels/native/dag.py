"""Sweeps over a directed acyclic graph, one pass over its edges in topological order, batches innermost.

Arrays are ``(edges + 1, batch)`` and ``(vertices + 1, batch)`` as in ``dag_sums``; order, start, edges and tails those
of ``dag_order.Nodes``.

A log-sum takes three steps over a run of nodes: best values, and what each edge misses of them, into ``part`` with one
row for every edge of the run; exponentials of these (by torch, which has vectors); sums, shares and values. Sums are
relative to the best way through the run, hence at least 1 and at most the number of ways through it, ``ways``.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled

_WAYS = 1e270  # through one run, of which float64 holds the number


@compiled
def missed(low, order, start, edges, tails, scores, values, ways, part):  # type: ignore[no-untyped-def]
    """A run of nodes from ``low`` on: the end that it has. ``ways`` is 1 at all other vertices."""
    batch, nodes, i = scores.shape[1], len(order), low
    while i < nodes and (i == low or start[i + 1] - start[low] <= len(part)):
        v, count = order[i], 0.0
        for j in range(start[i], start[i + 1]):
            count += ways[tails[j]]
        if i > low and count > _WAYS:
            break
        ways[v] = count
        for k in range(batch):
            values[v, k] = -np.inf
        for j in range(start[i], start[i + 1]):
            e, t, p = edges[j], tails[j], j - start[low]
            for k in range(batch):
                term = values[t, k] + scores[e, k]
                part[p, k] = term
                values[v, k] = max(values[v, k], term)
        for p in range(start[i] - start[low], start[i + 1] - start[low]):
            for k in range(batch):
                part[p, k] -= values[v, k]
        i += 1
    return i


@compiled
def shared(low, high, order, start, edges, tails, values, ways, total, part, share):  # type: ignore[no-untyped-def]
    """The run from exponentials to shares, and from best values to log-sums; ``ways`` and ``total`` are 1 again."""
    batch = part.shape[1]
    for i in range(low, high):
        v = order[i]
        for k in range(batch):
            total[v, k] = 0.0
        for j in range(start[i], start[i + 1]):
            t, p = tails[j], j - start[low]
            for k in range(batch):
                part[p, k] *= total[t, k]
                total[v, k] += part[p, k]
        for j in range(start[i], start[i + 1]):
            e, p = edges[j], j - start[low]
            for k in range(batch):
                share[e, k] = part[p, k] / total[v, k]
    for i in range(low, high):
        v = order[i]
        ways[v] = 1.0
        for k in range(batch):
            values[v, k] += np.log(total[v, k])
            total[v, k] = 1.0


@compiled
def linear(up, order, start, edges, tails, weight, x):  # type: ignore[no-untyped-def]
    """x_v += sum over edges into v (``up``: out of v) of weight times x at the other end, in place."""
    batch, nodes = x.shape[1], len(order)
    for step in range(nodes):
        i = nodes - 1 - step if up else step
        v = order[i]
        for j in range(start[i], start[i + 1]):
            e, t = edges[j], tails[j]
            if up:
                for k in range(batch):
                    x[t, k] += weight[e, k] * x[v, k]
            else:
                for k in range(batch):
                    x[v, k] += weight[e, k] * x[t, k]


@compiled
def best(order, start, edges, tails, source, target, scores, values, entered, x):  # type: ignore[no-untyped-def]
    """A path of largest score to each column of ``x``, (edges, batch) of zeros; the first of equal edges everywhere.

    ``values`` and ``entered`` are scratch, (vertices + 1, batch): values 0 at the source; by what edge each is entered.
    """
    batch = scores.shape[1]
    for i in range(len(order)):
        v = order[i]
        for k in range(batch):
            values[v, k] = -np.inf
        for j in range(start[i], start[i + 1]):
            e, t = edges[j], tails[j]
            for k in range(batch):
                term = values[t, k] + scores[e, k]
                if term > values[v, k] or j == start[i]:
                    values[v, k], entered[v, k] = term, j
    for k in range(batch):
        v = target
        while v != source:
            j = entered[v, k]
            x[edges[j], k] = 1.0
            v = tails[j]


@compiled
def log_sums(order, start, edges, tails, target, scores, values, terms, found):  # type: ignore[no-untyped-def]
    """Log-sums alone, of rows of scores ``(batch, edges)``; ``values``, 0 at the source, and ``terms`` are scratch."""
    for row in range(len(scores)):
        for i in range(len(order)):
            low, top, total = start[i], -np.inf, 0.0
            for j in range(low, start[i + 1]):
                terms[j - low] = values[tails[j]] + scores[row, edges[j]]
                top = max(top, terms[j - low])
            for j in range(start[i + 1] - low):
                total += np.exp(terms[j] - top)
            values[order[i]] = top + np.log(total)
        found[row] = values[target]
