"""The hull of the derivations of a directed acyclic hypergraph, by unit flow (Martin, Rardin, Campbell 1990)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polytopes.kernels.hypergraph_order import Arcs
from sst_cvx.once import later

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    cp = later("cvxpy")
    sp = later("scipy.sparse")


def unit_flow(arcs: Arcs, x: Any) -> list[Any]:
    """That x ``(items,)`` is in the hull of the items of derivations: constraints, with a variable of arcs.

    Theorem 1 of R. K. Martin, R. L. Rardin, B. A. Campbell, "Polyhedral characterization of discrete dynamic
    programming", Operations Research 38 (1990): if each vertex has a nonempty reference subset of a finite set, and those
    of an arc's tails are disjoint subsets of its head's, then

        y >= 0,   sum of y over arcs into v = sum of y over arcs that have v as a tail   (1 for the root)

    has the derivations for its extreme points; x = M y sums the arcs of each item. Proof in a line: the greatest y is
    peeled off along any derivation of positive arcs, which uses no vertex twice, as vertices of intersecting subsets
    are not used side by side.
    """
    n, m = arcs.vertices, arcs.count
    y, number = cp.Variable(m, nonneg=True), np.arange(m)
    balance = sp.csr_array((np.ones(m), (arcs.heads, number)), shape=(n, m))
    for tails in (arcs.first, arcs.second):
        there = np.flatnonzero(tails < n)
        balance = balance - sp.csr_array((np.ones(len(there)), (tails[there], there)), shape=(n, m))
    supply = np.zeros(n)
    supply[-1] = 1.0
    there = np.flatnonzero(arcs.item < arcs.items)
    carried = sp.csr_array((np.ones(len(there)), (arcs.item[there], there)), shape=(arcs.items, m))
    return [balance @ y == supply, x == carried @ y]
