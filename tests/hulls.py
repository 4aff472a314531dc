"""Declared structures without a fast path, in the shapes that hulls come in: for tests and benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cvxpy as cp
import numpy as np

import sst_cvx as sst


def k_subset(n: int, k: int) -> sst.Structure:
    """One row and bounds."""
    x = cp.Variable(n)
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == k])


def pairs(n: int = 6, k: int = 2) -> sst.Structure:
    """k of n items, at most one of each pair (0, 1), (2, 3), ...: general inequality rows."""
    x = cp.Variable(n)
    return sst.Structure(x, [x >= 0, x[0::2] + x[1::2] <= 1, cp.sum(x) == k])


def birkhoff(n: int) -> sst.Structure:
    """Doubly stochastic matrices: one of the 2n equalities depends on the others."""
    x = cp.Variable((n, n))
    return sst.Structure(x, [x >= 0, cp.sum(x, axis=0) == 1, cp.sum(x, axis=1) == 1])


def edges(n: int) -> list[tuple[int, int]]:
    """Of the complete graph."""
    return list(itertools.combinations(range(n), 2))


def trees_by_subtours(n: int) -> sst.Structure:
    """Spanning trees of the complete graph by all 2^n subtour constraints (Edmonds): many more rows than variables."""
    x, graph = cp.Variable(n * (n - 1) // 2), edges(n)
    subsets = [s for size in range(2, n) for s in itertools.combinations(range(n), size)]
    inside = np.array([[float(i in s and j in s) for i, j in graph] for s in subsets])
    return sst.Structure(x, [x >= 0, cp.sum(x) == n - 1, inside @ x <= np.array([len(s) - 1.0 for s in subsets])])


def trees_by_martin(n: int) -> sst.Structure:
    """The same by Martin's (1991) extended formulation: auxiliary variables, in which f has no curvature.

    For each root k, the tree's edges are turned away from k: every other vertex has one parent.
    """
    graph = edges(n)
    x, z = cp.Variable(len(graph)), cp.Variable((n, 2 * len(graph)))  # z[k, e]: i -> j, z[k, m + e]: j -> i
    arcs = [*graph, *((j, i) for i, j in graph)]
    heads = np.array([[float(j == v) for v in range(n)] for _, j in arcs])
    entered = z @ heads
    others = 1 - np.eye(n)
    m = len(graph)
    directed = [z[k, :m] + z[k, m:] == x for k in range(n)]
    return sst.Structure(x, [z >= 0, cp.sum(x) == n - 1, *directed, entered == others])


def grid_paths(side: int) -> sst.Structure:
    """Paths from corner to opposite corner of a directed grid: unit flow."""
    arcs = [((i, j), (i + a, j + b)) for i in range(side) for j in range(side) for a, b in ((0, 1), (1, 0))]
    arcs = [(p, q) for p, q in arcs if max(q) < side]
    place = {p: side * p[0] + p[1] for p, _ in arcs} | {(side - 1, side - 1): side * side - 1}
    balance = np.zeros((side * side, len(arcs)))
    for e, (p, q) in enumerate(arcs):
        balance[place[p], e], balance[place[q], e] = 1, -1
    supply = np.zeros(side * side)
    supply[0], supply[-1] = 1, -1
    x = cp.Variable(len(arcs))
    return sst.Structure(x, [x >= 0, balance @ x == supply])


def random_polytope(n: int = 30, equalities: int = 5, rows: int = 10, seed: int = 0) -> sst.Structure:
    """A box cut by random equalities and side constraints, around a random interior point. No integer vertices."""
    rng = np.random.default_rng(seed)
    x, inside = cp.Variable(n), rng.uniform(0.2, 0.8, n)
    A, G = rng.normal(size=(equalities, n)), rng.normal(size=(rows, n))
    slack = rng.uniform(0.1, 1.0, rows)
    return sst.Structure(x, [x >= 0, x <= 1, A @ x == A @ inside, G @ x <= G @ inside + slack])


#: name -> maker, the hulls of issue-scale benchmarks
LARGE: dict[str, Callable[[], sst.Structure]] = {
    "5-subset of 20": lambda: k_subset(20, 5),
    "10-subset of 100": lambda: k_subset(100, 10),
    "20-subset of 200": lambda: k_subset(200, 20),
    "Birkhoff 5": lambda: birkhoff(5),
    "Birkhoff 10": lambda: birkhoff(10),
    "trees of 6, subtours": lambda: trees_by_subtours(6),
    "trees of 6, Martin": lambda: trees_by_martin(6),
    "trees of 10, Martin": lambda: trees_by_martin(10),
    "paths, 6x6 grid": lambda: grid_paths(6),
    "random polytope": random_polytope,
}
