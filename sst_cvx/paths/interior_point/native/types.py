"""What goes between the loops: named tuples of arrays and numbers, which Numba unpacks once a call."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Hull(NamedTuple):
    """M = [[A, 0], [G, I]] without its slack columns, by rows and by columns, rows in the order of elimination.

    Attributes:
        row_start, column, row_entry: by rows; entries are numbers of values.
        column_start, row, column_entry: by columns, with increasing rows.
        place: of each row in the caller's order.
        slack: column of each row's slack, -1 of equalities.
        structural, events: columns without slacks; of the event.
        condensed: whether systems of the size of the columns are the smaller ones.
    """

    row_start: np.ndarray
    column: np.ndarray
    row_entry: np.ndarray
    column_start: np.ndarray
    row: np.ndarray
    column_entry: np.ndarray
    place: np.ndarray
    slack: np.ndarray
    structural: int
    events: int
    condensed: bool


class Rules(NamedTuple):
    """The regularizer, barriers, and what kinds of columns there are.

    Attributes:
        kind, alpha: of f, see ``phi``; low, high: where its coordinates stay.
        steep, steep_everywhere, inverts, moves, auxiliary, fixed_sum: as ``Model`` has them.
        barrier: columns of the barriers; sign: 1 of lower ends, -1 of upper ones.
        lower_steep, upper_steep: ends of the domain where phi' is infinite; NaN for none.
    """

    kind: int
    alpha: float
    low: float
    high: float
    steep: bool
    steep_everywhere: bool
    inverts: bool
    moves: bool
    auxiliary: bool
    fixed_sum: bool
    barrier: np.ndarray
    sign: np.ndarray
    lower_steep: float
    upper_steep: float


class Tolerances(NamedTuple):
    """Those of ``..tolerances`` that the loops read, by their names in lower case; ``tolerance``: of this f."""

    first_barrier: float
    first_temperature: float
    barrier_floor: float
    barrier_floor_infeasible: float
    least_barrier: float
    most_correction: float
    step: float
    step_refinements: int
    immovable: float
    loose: float
    late: float
    dual: float
    rounding: float
    active: float
    weak: float
    wrong: float
    wrong_auxiliary: float
    outside: float
    accepted_outside: float
    rounds: int
    many_rounds: int
    changes: int
    exact: float
    accepted: float
    nearby: float
    proximal_active: float
    newton_refinements: int
    refinements: int
    ridge: float
    ridge_growth: float
    largest_ridge: float
    largest_reciprocal: float
    floor: float
    no_room: float
    reached: float
    tolerance: float
    proximal: float


class Element(NamedTuple):
    """One problem, as ``problem.Problem`` but for its first dimension; ``values``: of the entries of M."""

    values: np.ndarray
    linear: np.ndarray
    temperature: np.ndarray
    right: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    ends: np.ndarray
    pinned: np.ndarray
    coldest: float


class Point(NamedTuple):
    """Columns, multipliers of rows, and those of barriers; ``side`` as in ``problem.Solution``."""

    w: np.ndarray
    y: np.ndarray
    z: np.ndarray
    side: np.ndarray


class Space(NamedTuple):
    """Room to work in, made once for all elements.

    Attributes:
        matrix: of the Schur complement or the condensed system, upper triangular once factorised.
        spread, inner: of the condensed system's equalities.
        d: inverse curvatures of a Newton system; take: whether rows take part in it.
        p, q, dw, dy: right sides and solutions; p2, q2, dw2, dy2: of refinements.
        slope, curvature: of f; dual, primal: residuals.
        gaps, pairs, center, dz: of barriers.
        wrong: multipliers that free columns; near: a point to come back to.
        column, row: scratch, by columns and by rows.
    """

    matrix: np.ndarray
    spread: np.ndarray
    inner: np.ndarray
    d: np.ndarray
    take: np.ndarray
    p: np.ndarray
    q: np.ndarray
    dw: np.ndarray
    dy: np.ndarray
    p2: np.ndarray
    q2: np.ndarray
    dw2: np.ndarray
    dy2: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    dual: np.ndarray
    primal: np.ndarray
    gaps: np.ndarray
    pairs: np.ndarray
    center: np.ndarray
    dz: np.ndarray
    wrong: np.ndarray
    near: np.ndarray
    column: np.ndarray
    row: np.ndarray
