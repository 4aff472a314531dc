"""Trees: marginals beside torch-struct and the matrix-tree theorem as written, best trees beside graph libraries."""

from __future__ import annotations

import mpmath
import numpy as np
import torch

import polytopes
import sst_cvx as sst
from benchmarks.marginal_peers import arcs, argmax_ways, marginal_ways
from benchmarks.peers.race import Contest, Row, Way, available, by_rows, has, normal, of_marginals


def rows() -> list[Row]:
    found = []
    for kind in (polytopes.SpanningTree, polytopes.Arborescence):
        for n in (10, 30):
            for scale in (1, 3):
                name = f"{kind.__name__}({n}) marginals, utilities x{scale}"
                found.append(Row(name, lambda kind=kind, n=n, scale=scale: _marginals(kind(n), scale)))
    found += [Row(f"maximum spanning tree, n = {n}", lambda n=n: _best(polytopes.SpanningTree(n))) for n in (10, 30)]
    return [*found, Row("maximum arborescence, n = 30", lambda: _best(polytopes.Arborescence(30)), 32)]


def _marginals(structure: sst.Structure, scale: float) -> Contest:
    """torch-struct by its class, which adds 1e-5 to the Laplacian's weights, and by its function, which need not."""
    ways = marginal_ways(structure, variants=True)
    mine, *peers = (of_marginals(name, way) for name, way in ways.items())
    return Contest(
        normal(*structure.event_shape, scale=scale),
        mine,
        peers,
        lambda u: _by_inverse(structure, u),
        checked=2,
        missing=available("torch_struct"),
    )


def _by_inverse(structure: sst.Structure, u: torch.Tensor) -> torch.Tensor:
    """w_ij ((L^-1)_jj - (L^-1)_ji) for every arc i -> j, L the Laplacian without the root, in 50 digits."""
    tails, heads, number = (ends.tolist() for ends in arcs(structure))
    n = max(heads)
    found = torch.zeros_like(u)
    with mpmath.workdps(50):
        for row, x in zip(u.tolist(), found, strict=True):
            w = [mpmath.exp(row[e]) for e in number]
            laplacian = mpmath.zeros(n)
            for i, j, weight in zip(tails, heads, w, strict=True):
                laplacian[j - 1, j - 1] += weight
                if i:
                    laplacian[i - 1, j - 1] -= weight
            inverse = laplacian**-1
            for i, j, e, weight in zip(tails, heads, number, w, strict=True):
                from_tail = inverse[j - 1, i - 1] if i else 0
                x[e] += float(weight * (inverse[j - 1, j - 1] - from_tail))
    return found


def _best(structure: sst.Structure) -> Contest:
    ways = argmax_ways(structure)
    mine, *peers = (Way(name, way.compute) for name, way in ways.items())
    undirected = isinstance(structure, polytopes.SpanningTree)
    if undirected and has("igraph"):
        peers.append(_igraph(structure))
    missing = available("igraph", "networkx") if undirected else available("networkx")
    return Contest(normal(*structure.event_shape), mine, peers, score=_value, missing=missing)


def _igraph(structure: sst.Structure) -> Way:
    import igraph

    edges = structure.edge_index.T.tolist()
    graph, empty = igraph.Graph(n=int(structure.edge_index.max()) + 1, edges=edges), np.zeros(len(edges))

    def best(u: np.ndarray) -> np.ndarray:
        x = empty.copy()
        x[graph.spanning_tree(weights=(-u).tolist(), return_tree=False)] = 1
        return x

    return by_rows("igraph", best)


def _value(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (u * x).sum(1)
