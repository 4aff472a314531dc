"""Best trees, element by element: Prim's algorithm, Kruskal's where edges are few, and Edmonds' by growing paths.

Utilities are ``(batch, edges)``, float64; trees come back in the same shape as 0 and 1.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled


@compiled
def prim(u, tails, heads, n, x):
    """Maximum spanning trees of a connected graph: of equals, the first vertex, as in tensors."""
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
def kruskal(order, tails, heads, n, x):
    """The same from the edges in descending order, ``(batch, edges)``; forests of graphs that are not connected too."""
    group = np.empty(n, np.int64)
    for b in range(len(order)):
        x[b] = 0.0
        for v in range(n):
            group[v] = v
        for e in order[b]:
            i, j = tails[e], heads[e]
            while group[i] != i:
                group[i] = group[group[i]]
                i = group[i]
            while group[j] != j:
                group[j] = group[group[j]]
                j = group[j]
            if i != j:
                group[j] = i
                x[b, e] = 1.0


@compiled
def arborescences(u, tails, heads, n, free, single_root, x):
    """Maximum spanning arborescences from vertex 0, which with ``free`` also has an edge of utility 0 to all others."""
    weight, parent = np.empty((n, n)), np.empty(n, np.int64)
    for b in range(len(u)):
        weight[:] = -np.inf  # by head
        if free:
            weight[1:, 0] = 0.0
        for e in range(len(tails)):
            weight[heads[e], tails[e]] = u[b, e]
        _edmonds(weight, single_root, parent)
        for e in range(len(tails)):
            x[b, e] = 1.0 if heads[e] != 0 and parent[heads[e]] == tails[e] else 0.0


@compiled
def parents(w, single_root, found):
    """Parents ``(batch, n)`` in best trees of ``(batch, n, n)`` weights, from one vertex to the other."""
    for b in range(len(w)):
        _edmonds(w[b].T.copy(), single_root, found[b])


@compiled
def _edmonds(weight, single_root, parent):
    """Parents in a best tree from vertex 0; weights ``(head, tail)`` are destroyed. O(n^2).

    From any vertex, go to where its best entering edge comes from, until the path reaches a vertex that has been dealt
    with, or itself: then the cycle becomes one vertex, whose entering edges are worth what they are better than those
    they replace (Gabow, Galil, Spencer, Tarjan 1986). With a single root, its edges are taken where there is no other.
    """
    n = len(weight)
    into = np.empty((n, n), np.int64)  # the vertex that the edge into a component from another truly enters
    out = np.empty((n, n), np.int64)  # and truly leaves
    for i in range(n):
        into[i] = i
        for j in range(n):
            out[i, j] = j
    node = np.arange(n)  # by component: its node in the forest of contractions
    above = np.full(2 * n, -1)
    edge_into, edge_out = np.full(2 * n, -1), np.zeros(2 * n, np.int64)
    alive, done, place = np.ones(n, np.bool_), np.zeros(n, np.bool_), np.full(n, -1)
    path, gain, nodes = np.empty(n, np.int64), np.empty(n), n
    done[0] = True
    for start in range(1, n):
        if done[start] or not alive[start] or place[start] >= 0:
            continue
        path[0], place[start], length = start, 0, 1
        while length:
            v = path[length - 1]
            tail = _best_tail(weight[v], v, alive, single_root)
            gain[v] = weight[v, tail]
            edge_into[node[v]], edge_out[node[v]] = into[v, tail], out[v, tail]
            if done[tail]:
                for k in range(length):
                    done[path[k]] = True
                length = 0
            elif place[tail] < 0:
                path[length], place[tail] = tail, length
                length += 1
            else:
                first = place[tail]
                for k in range(first, length):
                    above[node[path[k]]] = nodes
                for k in range(first, length):
                    _contract(weight, into, out, alive, tail, path[k], gain[path[k]])
                node[tail] = nodes
                nodes, length = nodes + 1, first + 1
    parent[0] = 0
    opened = np.zeros(2 * n, np.bool_)
    for k in range(nodes - 1, 0, -1):
        if not opened[k]:
            i = edge_into[k]
            parent[i] = edge_out[k]
            while i != k and i >= 0:
                opened[i] = True
                i = above[i]


@compiled
def _best_tail(weight, v, alive, single_root):
    tail = 0
    most = -np.inf if single_root else weight[0]
    for j in range(1, len(weight)):
        if alive[j] and j != v and weight[j] > most:
            tail, most = j, weight[j]
    return tail


@compiled
def _contract(weight, into, out, alive, whole, part, replaced):
    """Make ``part`` a part of ``whole``, which has its own column and row already where they are the same."""
    n = len(weight)
    if part == whole:
        for j in range(n):
            weight[whole, j] -= replaced
        return
    alive[part] = False
    for j in range(n):
        if weight[part, j] - replaced > weight[whole, j]:
            weight[whole, j] = weight[part, j] - replaced
            into[whole, j], out[whole, j] = into[part, j], out[part, j]
        if weight[j, part] > weight[j, whole]:
            weight[j, whole] = weight[j, part]
            into[j, whole], out[j, whole] = into[j, part], out[j, part]
