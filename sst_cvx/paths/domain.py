"""Hulls whose parameters move them: whether they stay where f is finite.

A hull without parameters is asked once, when a soft argmax is made (``regularizers.admission``). With them, at each
call: by the bounds of coordinates where these tell, else by linear programs. Beyond its domain f is infinite, and the
soft argmax would be that over a part of the hull, with no derivative by what bounds the rest.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from sst_cvx.errors import Elements, SolveError
from sst_cvx.hull.linear import AffineRows
from sst_cvx.paths.interior_point.varying import parametric_rows
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure

_TOLERANCE = 1e-7
_SIGNS = (-1.0, 1.0)  # of directions towards lower and upper ends
_KEPT = 4096  # parameter values for which linear programs were solved


class DomainGuard:
    """Of one pair. Hulls with cones are not looked at, nor those that stay inside whatever their parameters are."""

    def __init__(self, structure: Structure, regularizer: Regularizer):
        self._structure, self._regularizer = structure, regularizer
        self._fine: set[bytes] = set()
        self.low, self.high = regularizer.domain
        limited = math.isfinite(self.low) or math.isfinite(self.high)
        asked = limited and structure.parameters and not structure.known_binary and structure.hull.known
        self.needed = bool(asked and structure.declared_hull.linear and not self._inside_anyway())

    def _inside_anyway(self) -> bool:
        unknown = np.full((1, self._rows.sensitivity.shape[1]), np.nan)  # type: ignore[index]
        return not self._unproven(unknown).any()

    @cached_property
    def _parts(self) -> tuple[AffineRows, np.ndarray]:
        """The hull's rows, and which of them have coefficients that depend on parameters."""
        hull = self._structure.declared_hull
        rows, varying = (hull.affine, None) if hull.affine is not None else parametric_rows(hull.canonical)
        moves = np.zeros(rows.right.size, bool)
        if varying is not None:
            moves[varying.row] = True
        return rows, moves

    @property
    def _rows(self) -> AffineRows:
        return self._parts[0]

    @cached_property
    def _ends(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows that bound one coordinate from below, and from above: their numbers, coordinates and factors."""
        (rows, moves), ends = self._parts, []
        A = rows.matrix.copy()
        A.eliminate_zeros()
        single = np.flatnonzero((np.diff(A.indptr) == 1) & ~moves)
        column, factor = A.indices[A.indptr[single]], A.data[A.indptr[single]]
        place = np.full(A.shape[1], -1)
        place[rows.event] = np.arange(rows.event.size)
        for sign in _SIGNS:
            of = (place[column] >= 0) & ((single < rows.equalities) | (sign * factor > 0))
            ends.append((single[of], place[column[of]], factor[of]))
        return ends

    def _unproven(self, theta: np.ndarray) -> np.ndarray:
        """Coordinates whose bounds at parameters ``(count, parameters)`` do not keep them in the domain,
        ``(2, count, size)``; NaN stands for what is not known."""
        rows = self._rows
        b = rows.right + (rows.sensitivity @ theta.T).T
        found = []
        for (numbers, place, factor), sign, end in zip(self._ends, _SIGNS, (self.low, self.high), strict=True):
            reach = np.full((len(theta), rows.event.size), np.inf)  # of sign * x
            np.fmin.at(reach, (np.arange(len(theta))[:, None], place), sign * b[:, numbers] / factor)
            found.append((reach > sign * end + _TOLERANCE) & math.isfinite(end))
        return np.stack(found)

    def __call__(self, values: dict[str, torch.Tensor], elements: Elements) -> None:
        """Raise SolveError for the elements whose hull reaches beyond the domain at parameters ``(count, *shape)``."""
        with torch.no_grad():
            theta = self._rows.theta(values).numpy(force=True)
        unproven = self._unproven(theta)
        rows = np.flatnonzero(unproven.any((0, 2)))
        wrong = [int(i) for i in rows if not self._reaches_no_further(theta[i], unproven[:, i], values, int(i))]
        if wrong:
            raise elements.error(
                f"{self._regularizer!r} is finite only for coordinates in [{self.low:g}, {self.high:g}], but the hull "
                "reaches beyond for {elements} at its parameters: keep these where it does not, or use Euclidean().",
                wrong,
            )

    def _reaches_no_further(
        self, theta: np.ndarray, unproven: np.ndarray, values: dict[str, torch.Tensor], row: int
    ) -> bool:
        """By a linear program along each coordinate in question; an empty hull is for others to tell."""
        key = theta.tobytes()
        if key in self._fine:
            return True
        side, place = np.nonzero(unproven)
        each, sign = np.arange(side.size), np.array(_SIGNS)[side]
        directions = np.zeros((side.size, self._structure.event_size))
        directions[each, place] = sign
        at = {name: v[row].numpy(force=True) for name, v in values.items()}
        try:
            points = self._structure.declared_hull.oracle(directions, [at] * len(directions))
        except SolveError:
            return True
        ends = sign * np.array([self.low, self.high])[side]
        fine = bool((sign * points[each, place] <= ends + _TOLERANCE).all())
        if fine and len(self._fine) < _KEPT:
            self._fine.add(key)
        return fine
