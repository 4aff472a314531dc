"""Hulls without interior: the program of the layer with their implicit equalities said aloud."""

from __future__ import annotations

from operator import eq, le
from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx.hull.presolve import presolve
from sst_cvx.once import later
from sst_cvx.regularizers import Regularizer, SeparableRegularizer
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


def degenerate_program(structure: Structure, regularizer: Regularizer) -> tuple[Any, Any, list[Any]] | None:
    """(event, f, constraints) with implicit equalities said aloud, for hulls that have some; else None.

    The event is then a vector, in row-major order.
    """
    if structure.parameters or not structure.hull.linear or not isinstance(regularizer, SeparableRegularizer):
        return None
    presolved = presolve(structure.declared_hull.at(), regularizer.domain)
    if not presolved.degenerate:
        return None
    hull = presolved.hull
    fixed = hull.lower == hull.upper
    event_free = np.flatnonzero(~fixed[hull.event])
    free = hull.event[event_free]
    event = cp.Variable(hull.event.size)
    w: Any = event
    if hull.lower.size > event.size or not np.array_equal(hull.event, np.arange(event.size)):
        w = cp.Variable(hull.lower.size)
    constraints: list[Any] = [] if w is event else [event == w[hull.event]]
    equal = hull.row_lower == hull.row_upper
    below, above = (np.isfinite(ends) & ~fixed for ends in (hull.lower, hull.upper))
    for columns, relation, ends in ((fixed, eq, hull.lower), (above, le, hull.upper)):
        if columns.any():
            constraints.append(relation(w[np.flatnonzero(columns)], ends[columns]))
    if below.any():
        constraints.append(w[np.flatnonzero(below)] >= hull.lower[below])
    for rows, relation in ((equal, eq), (~equal, le)):
        if rows.any():
            constraints.append(relation(hull.rows[rows] @ w, hull.row_upper[rows]))
    # f of fixed coordinates is a constant, and entropies have no derivative at the edge of their domain.
    f = regularizer.expression_of(w, event_free, free, structure.event_shape) if free.size else cp.sum_squares(event)
    return event, f, constraints
