"""Right structures for tests of sst.check: one small set whose parts faults override, and random polytopes."""

from __future__ import annotations

import itertools
from fractions import Fraction

import cvxpy as cp
import numpy as np
import torch
from scipy.spatial import ConvexHull

import sst_cvx as sst


class TwoOfFive(sst.Structure):
    """A right one; faults override its parts."""

    def __init__(self, constraints=None):
        x = cp.Variable(5)
        super().__init__(x, constraints(x) if constraints else [x >= 0, x <= 1, cp.sum(x) == 2])

    def argmax(self, u):
        return torch.zeros_like(u).scatter(-1, u.topk(2, -1).indices, 1.0)

    def vertices(self):
        grid = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
        return grid[grid.sum(1) == 2]

    def log_partition(self, u):
        return (u.double() @ self.vertices().T).logsumexp(-1).to(u.dtype)


class Listed(sst.Structure):
    """A hull and all of its vertices: argmax and log-partition by enumeration."""

    def __init__(self, points, constraints):
        self._points = torch.as_tensor(points, dtype=torch.float64)
        x = cp.Variable(self._points.shape[1])
        super().__init__(x, constraints(x))

    def argmax(self, u):
        return self._points[(u.double() @ self._points.T).argmax(-1)].to(u)

    def vertices(self):
        return self._points

    def log_partition(self, u):
        return (u.double() @ self._points.T).logsumexp(-1).to(u.dtype)


def hull_of(points):
    """(A, b, E, e) in whole numbers with conv(points) = { x : A x <= b, E x == e }, of distinct 0/1 points."""
    origin, size = points[0], points.shape[1]
    pivots, null = _reduced(points - origin)
    E = np.array(null, dtype=float).reshape(-1, size)
    A, chart = np.zeros((0, size)), points[:, pivots]
    if len(pivots) == 1:
        A = np.zeros((2, size))
        A[:, pivots[0]] = 1, -1
    elif len(pivots) > 1:
        facets = np.unique(np.round([_whole(row[:-1]) for row in ConvexHull(chart).equations]), axis=0)
        A = np.zeros((len(facets), size))
        A[:, pivots] = facets
    return A, (A @ points.T).max(axis=1), E, E @ origin


def _whole(row):
    """The least multiple of a row in whole numbers."""
    row = row / np.abs(row[np.abs(row) > 1e-9]).min()
    return next(k * row for k in range(1, 200) if np.abs(k * row - np.round(k * row)).max() < 1e-7)


def _reduced(rows):
    """Pivot columns of a matrix in whole numbers, and a basis of its null space, in fractions."""
    matrix, pivots = [[Fraction(int(v)) for v in row] for row in rows], []
    for column in range(rows.shape[1]):
        place = next((i for i in range(len(pivots), len(matrix)) if matrix[i][column]), None)
        if place is None:
            continue
        at = len(pivots)
        matrix[at], matrix[place] = matrix[place], matrix[at]
        matrix[at] = [v / matrix[at][column] for v in matrix[at]]
        for i, row in enumerate(matrix):
            if i != at and row[column]:
                matrix[i] = [v - row[column] * p for v, p in zip(row, matrix[at], strict=True)]
        pivots.append(column)
    null = []
    for free in sorted(set(range(rows.shape[1])) - set(pivots)):
        vector = [Fraction(int(i == free)) for i in range(rows.shape[1])]
        for i, column in enumerate(pivots):
            vector[column] = -matrix[i][free]
        null.append([float(v) for v in vector])
    return pivots, null


def random_structure(seed):
    """The hull of random 0/1 points with exact facets, scaled and shifted; every other one lists its vertices."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 6))
    grid = np.array(list(itertools.product((0, 1), repeat=size)))
    points = grid[rng.permutation(len(grid))[: rng.integers(2, min(len(grid), 14) + 1)]]
    A, b, E, e = hull_of(points)
    scale = 1.0 if seed % 3 == 0 else float(rng.choice([1e-3, 1e-2, 0.1, 3.0, 100.0, 1e3]))
    shift = np.zeros(size) if seed % 4 < 2 else scale * rng.choice([0.5, 2.0, 5.0]) * rng.normal(size=size)

    def constraints(x):
        rows = [A @ x <= scale * b + A @ shift] if len(A) else []
        return rows + ([E @ x == scale * e + E @ shift] if len(E) else [])

    if seed % 2:
        return Listed(scale * points + shift, constraints)
    x = cp.Variable(size)
    return sst.Structure(x, constraints(x))
