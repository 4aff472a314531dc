"""Whether edges of bounded capacity can carry supplies: maximum flow (SciPy), and a cut that says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.sparse as sp
    import scipy.sparse.csgraph as csgraph
else:
    sp = later("scipy.sparse")
    csgraph = later("scipy.sparse.csgraph")

#: SciPy's flows are 32-bit integers.
LARGEST = 2**31 - 1


def incidence(tails: np.ndarray, heads: np.ndarray, n: int) -> Any:
    """``(n, edges)``, sparse: 1 where an edge leaves a vertex, -1 where it enters; 0 of loops."""
    edges = np.arange(len(tails))
    signs = np.concatenate([np.ones(len(tails)), -np.ones(len(tails))])
    places = np.concatenate([tails, heads]), np.concatenate([edges, edges])
    matrix = sp.csr_array(sp.coo_array((signs, places), shape=(n, len(tails))))
    matrix.eliminate_zeros()
    return matrix


def overloaded(
    tails: np.ndarray, heads: np.ndarray, supply: np.ndarray, capacities: np.ndarray
) -> tuple[np.ndarray, int] | None:
    """A set of vertices that has more supply than the edges that leave it can carry, and by how much; None if there
    is a flow.

    Args:
        tails, heads: ``(edges,)``. supply: ``(n,)``, integers of sum 0 and of absolute sum at most ``2 LARGEST``.
        capacities: ``(edges,)``, integers at least 0, or infinite.
    """
    n, total = len(supply), int(supply.clip(min=0).sum())
    if not total:
        return None
    vertices, limits = np.arange(n), np.minimum(capacities, total).astype(np.int64)
    source, sink = n, n + 1
    start = np.concatenate([tails, np.full(n, source), vertices])
    end = np.concatenate([heads, vertices, np.full(n, sink)])
    room = np.concatenate([limits, supply.clip(min=0), (-supply).clip(min=0)]).astype(np.int64)
    here = (start != end) & (room > 0)
    graph: Any = sp.csr_array(sp.coo_array((room[here], (start[here], end[here])), shape=(n + 2, n + 2)))  # sums
    graph.data = np.minimum(graph.data, total).astype(np.int32)
    graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)
    found = csgraph.maximum_flow(graph, source, sink)
    if found.flow_value == total:
        return None
    left: Any = sp.csr_array(graph - found.flow)
    left.data = (left.data > 0).astype(np.int8)
    left.eliminate_zeros()
    reached = csgraph.breadth_first_order(left, source, return_predecessors=False)
    return np.sort(reached[reached < n]), total - int(found.flow_value)
