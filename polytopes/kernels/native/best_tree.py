"""Best trees, element by element: Prim's algorithm, and the rounds of ``best_tree.py``.

Utilities are ``(batch, edges)``, float64; trees come back in the same shape as 0 and 1. Of trees that are equally good,
the same as by tensors: what a mode changes must not be the answer.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled


@compiled
def prim(u, tails, heads, n, x):
    """Maximum spanning trees of a connected graph."""
    edge = np.full((n, n), -1)
    for e in range(len(tails)):
        edge[tails[e], heads[e]] = edge[heads[e], tails[e]] = e
    best, by, outside = np.empty(n), np.empty(n, np.int64), np.empty(n, np.bool_)
    for b in range(len(u)):
        x[b] = 0.0
        outside[:] = True
        outside[0] = False
        for v in range(n):
            by[v] = edge[0, v]
            best[v] = u[b, by[v]] if by[v] >= 0 else -np.inf
        for _ in range(n - 1):
            new = -1
            for v in range(n):
                if outside[v] and by[v] >= 0 and (new < 0 or best[v] > best[new]):
                    new = v
            outside[new] = False
            x[b, by[new]] = 1.0
            for v in range(n):
                e = edge[new, v]
                if outside[v] and e >= 0 and (by[v] < 0 or u[b, e] > best[v]):
                    best[v], by[v] = u[b, e], e


@compiled
def arborescences(u, tails, heads, n, free, single_root, x):
    """Maximum spanning arborescences from vertex 0, which with ``free`` also has an edge of utility 0 to all others."""
    w, parent = np.empty((n, n)), np.empty(n, np.int64)
    for b in range(len(u)):
        w[:] = -np.inf
        if free:
            w[0, 1:] = 0.0
        for e in range(len(tails)):
            w[tails[e], heads[e]] = u[b, e]
        _best_tree(w, single_root, parent)
        for e in range(len(tails)):
            x[b, e] = 1.0 if heads[e] != 0 and parent[heads[e]] == tails[e] else 0.0


@compiled
def parents(w, single_root, found):
    """Parents ``(batch, n)`` in best trees of ``(batch, n, n)`` weights, from one vertex to the other."""
    for b in range(len(w)):
        _best_tree(w[b].copy(), single_root, found[b])


@compiled
def _best_tree(w, single_root, parent):
    """As ``best_tree``; ``w`` is changed."""
    n = len(w)
    w[:, 0] = -np.inf
    for v in range(n):
        w[v, v] = -np.inf
    if single_root:
        _set_root_back(w)
    size = max(n - 1, 1)
    components, names = np.empty((size, n), np.int64), np.empty((size, n), np.int64)
    heads, tails, cyclic = np.empty((size, n), np.int64), np.empty((size, n), np.int64), np.zeros((size, n), np.bool_)
    replaced, gain, best, done = np.zeros(n), np.empty(n), np.empty(n), 0
    components[0] = np.arange(n)
    while True:
        component, head, tail = components[done], heads[done], tails[done]
        _enter(w, component, replaced, best, gain, head, tail)
        if done == n - 2 or n < 2:
            break
        if not _cycles(component, tail, parent, names[done], cyclic[done]):
            break
        for v in range(n):
            c = component[v]
            if cyclic[done, c]:
                replaced[v] += gain[c]
            components[done + 1, v] = names[done, c]
        done += 1
    head, tail = heads[done], tails[done]
    before = np.empty(n, np.int64), np.empty(n, np.int64)
    for r in range(done - 1, -1, -1):
        # The edge that enters a cycle replaces the cycle's own at the component where it enters; the others stay.
        before[0][:] = head
        before[1][:] = tail
        for v in range(n):
            head[v], tail[v] = before[0][names[r, v]], before[1][names[r, v]]
            if cyclic[r, v] and components[r, head[v]] != v:
                head[v], tail[v] = heads[r, v], tails[r, v]
    parent[:] = tail
    parent[0] = 0


@compiled
def _set_root_back(w):
    """A single root's edges are worth less than all others."""
    n, most, least = len(w), -np.inf, np.inf
    for i in range(n):
        for j in range(n):
            if np.isfinite(w[i, j]):
                most, least = max(most, w[i, j]), min(least, w[i, j])
    span = most - least if most > least else 1.0
    for j in range(n):
        w[0, j] -= n * span


@compiled
def _enter(w, component, replaced, best, gain, head, tail):
    """Best edges into every component, by its name: what they gain, and between which vertices."""
    n = len(w)
    own = np.zeros(n, np.int64)
    best[:] = -np.inf
    for i in range(n):
        for j in range(n):
            if w[i, j] > best[j] and component[i] != component[j]:
                best[j], own[j] = w[i, j], i
    gain[:] = -np.inf
    head[:] = 0
    for v in range(n):
        best[v] -= replaced[v]
        gain[component[v]] = max(gain[component[v]], best[v])
    for v in range(n):
        if best[v] == gain[component[v]]:
            head[component[v]] = v  # the last of equals
    for v in range(n):
        tail[v] = own[head[v]]


@compiled
def _cycles(component, tail, parent, name, cyclic):
    """Names of components once each cycle is called by its least; who is on a cycle; whether there is one."""
    n, found = len(component), False
    seen = np.full(n, -1)
    for v in range(n):
        parent[v] = component[tail[v]] if component[v] == v and v > 0 else 0
        name[v], cyclic[v] = v, False
    for start in range(n):
        v = start
        while seen[v] < 0:
            seen[v] = start
            v = parent[v]
        if v != 0 and seen[v] == start and not cyclic[v]:
            least, at = v, parent[v]
            while at != v:
                least, at = min(least, at), parent[at]
            name[v], cyclic[v], at, found = least, True, parent[v], True
            while at != v:
                name[at], cyclic[at], at = least, True, parent[at]
    return found
