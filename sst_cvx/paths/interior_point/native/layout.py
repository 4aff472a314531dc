"""What goes between the loops: one named tuple of few arrays (each costs Numba seconds wherever it is handed on), whose
rows have names here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Room(NamedTuple):
    """One element, M = [[A, 0], [G, I]] without its slack columns, and room to work in.

    Attributes:
        rows: of M, in the order of elimination: their first entries, places in the caller's order, and columns of their
            slacks (-1: an equality).
        entries: columns, by rows; rows and numbers of entries, by columns.
        starts: first entries of columns; values: of the entries, by rows.
        barrier: columns of the barriers.
        k: numbers of this regularizer, hull and element, and tolerances; c, r, b: by columns, rows and barriers.
        matrix: the system's, upper triangular once factorised; then what the condensed one has of equalities.
        structural, events: columns without slacks; of the event. condensed: whether their system is the smaller one.
    """

    rows: np.ndarray
    entries: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    barrier: np.ndarray
    k: np.ndarray
    c: np.ndarray
    r: np.ndarray
    b: np.ndarray
    matrix: np.ndarray
    structural: int
    events: int
    condensed: bool


#: Rows of ``rows`` and of ``entries``.
START, PLACE, SLACK = 0, 1, 2
COLUMN, ROW, ENTRY = 0, 1, 2

#: Of ``c``: the problem, the interior point, the answer; then Newton systems (D inverse curvatures, P right sides, DW
#: solutions, and those of refinements), slopes and curvatures of f, dual residuals, multipliers that free columns.
LINEAR, TEMPERATURE, LOWER, UPPER, PINNED, NEAR, W, SIDE = 0, 1, 2, 3, 4, 5, 6, 7
D, P, DW, P2, DW2, SLOPE, CURVATURE, DUAL, WRONG, SCRATCH = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
COLUMN_ARRAYS = 18
#: Of ``r``: right sides, multipliers of the two points; Newton systems, TAKE: which rows take part; primal residuals.
RIGHT, NEAR_Y, Y = 0, 1, 2
Q, DY, Q2, DY2, TAKE, PRIMAL, SCRATCH_ROW = 3, 4, 5, 6, 7, 8, 9
ROW_ARRAYS = 10
#: Of ``b``: SIGN is 1 of lower ends, -1 of upper ones; multipliers; distances, their products, targets, steps.
SIGN, ENDS, Z, GAPS, PAIRS, CENTER, DZ = 0, 1, 2, 3, 4, 5, 6
BARRIER_ARRAYS = 7

#: Of ``k``. The regularizer (``phi``), where its coordinates stay, its steep ends (NaN: none), what ``Model`` says.
KIND, ALPHA, LOW, HIGH, STEEP_LOW, STEEP_HIGH, STEEP, STEEP_EVERYWHERE, INVERTS = 0, 1, 2, 3, 4, 5, 6, 7, 8
MOVES, HAS_AUXILIARY, FIXED_SUM, ARRIVED, PROXIMAL = 9, 10, 11, 12, 13
#: Of an element: its smallest temperature, the factor on all, the largest, and the largest primal residual.
COLDEST, WARMTH, WARMEST, INFEASIBLE = 14, 15, 16, 17
#: Tolerances, by their names.
FIRST_BARRIER, FIRST_TEMPERATURE, BARRIER_FLOOR, BARRIER_FLOOR_INFEASIBLE, LEAST_BARRIER = 18, 19, 20, 21, 22
MOST_CORRECTION, STEP, STEP_REFINEMENTS, IMMOVABLE, LOOSE, LATE, DUAL_ERROR, ROUNDING = 23, 24, 25, 26, 27, 28, 29, 30
ACTIVE, WEAK, WRONG_SIGN, WRONG_AUXILIARY, OUTSIDE, ACCEPTED_OUTSIDE, ROUNDS = 31, 32, 33, 34, 35, 36, 37
MANY_ROUNDS, CHANGES, EXACT, ACCEPTED, NEARBY, PROXIMAL_ACTIVE, NEWTON_REFINEMENTS = 38, 39, 40, 41, 42, 43, 44
REFINEMENTS, RIDGE, RIDGE_GROWTH, LARGEST_RIDGE, LARGEST_RECIPROCAL, FLOOR = 45, 46, 47, 48, 49, 50
NO_ROOM, REACHED, NUMBERS = 51, 52, 53

#: Names of ``tolerances`` that differ from those here.
RENAMED = {"DUAL_ERROR": "DUAL", "WRONG_SIGN": "WRONG"}
TOLERANCES = range(FIRST_BARRIER, NUMBERS)
