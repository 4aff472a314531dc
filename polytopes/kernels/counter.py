"""A directed acyclic graph times a counter: paths whose edges cost a bounded sum, as the paths of a larger graph."""

from __future__ import annotations

import numpy as np

from polytopes.kernels.dag_order import levels


def counted(
    tails: np.ndarray, heads: np.ndarray, costs: np.ndarray, source: int, target: int, least: int, most: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int] | None:
    """Paths of cost from ``least`` to ``most`` (None: any), one to one with paths from source to target of a new graph.

    A vertex there is (vertex, cost so far), where that cost can still end within the bounds; costs from which every end
    is within them are one vertex.

    Args:
        tails, heads, costs: of edges that are all on some path; costs are integers >= 0.

    Returns:
        New tails and heads, the old edge of each, source and target; None where no path keeps the bounds.
    """
    costs = np.minimum(costs, least if most is None else most + 1)  # what is more decides as much
    vertices = int(max(tails.max(), heads.max())) + 1
    ahead, behind = levels(tails, heads, vertices), levels(heads, tails, vertices)
    so_far = [_extremes(tails, heads, costs, ahead, best) for best in (np.minimum, np.maximum)]
    to_come = [_extremes(heads, tails, costs, behind, best) for best in (np.minimum, np.maximum)]
    most = int(so_far[1][target]) if most is None else most
    first, last = np.maximum(so_far[0], least - to_come[1]), np.minimum(so_far[1], most - to_come[0])
    safe_from, safe_to = np.maximum(first, least - to_come[0]), most - to_come[1]
    width = np.maximum(last - first + 1, 0)
    start = np.cumsum(width) - width

    def number(vertex: np.ndarray, cost: np.ndarray) -> np.ndarray:
        safe = (cost >= safe_from[vertex]) & (cost <= safe_to[vertex])
        return start[vertex] + np.where(safe, safe_from[vertex], cost) - first[vertex]

    if not (first[source] <= 0 <= last[source] and width[target]):
        return None
    edge = np.repeat(np.arange(len(tails)), width[tails])
    tail, head = tails[edge], heads[edge]
    place = np.arange(len(edge)) - np.repeat(np.cumsum(width[tails]) - width[tails], width[tails])
    cost = first[tail] + place
    after = cost + costs[edge]
    new = number(tail, cost) == start[tail] + place  # else another stands for it
    kept = np.flatnonzero(new & (after >= first[head]) & (after <= last[head]))
    tail, head, edge = start[tail[kept]] + place[kept], number(head[kept], after[kept]), edge[kept]
    ends = [int(number(np.array([v]), np.array([c]))[0]) for v, c in ((source, 0), (target, int(first[target])))]
    used = np.zeros(int(width.sum()), dtype=bool)
    used[tail], used[head], used[ends] = True, True, True
    compact = np.cumsum(used) - 1
    return (compact[tail], compact[head], edge, int(compact[ends[0]]), int(compact[ends[1]])) if len(kept) else None


def _extremes(
    tails: np.ndarray,
    heads: np.ndarray,
    costs: np.ndarray,
    order: list[np.ndarray],
    best: np.ufunc,
) -> np.ndarray:
    """The least or the largest cost of a way to each vertex, from the only one that nothing enters."""
    value, level = np.zeros((2, sum(map(len, order))), dtype=np.int64)
    for i, members in enumerate(order):
        level[members] = i
    by_head = np.lexsort((heads, level[heads]))
    starts = np.flatnonzero(np.diff(heads[by_head], prepend=-1))
    bounds = np.searchsorted(level[heads[by_head[starts]]], np.arange(1, len(order) + 1))
    low = 0
    for high in bounds:
        if low < high:
            end = starts[high] if high < len(starts) else len(by_head)
            edges = by_head[starts[low] : end]
            found = best.reduceat(value[tails[edges]] + costs[edges], starts[low:high] - starts[low])
            value[heads[by_head[starts[low:high]]]] = found
        low = high
    return value
