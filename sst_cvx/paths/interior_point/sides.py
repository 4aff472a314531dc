"""Right sides and bounds of a standard form as functions of the hull's parameters: in torch, differentiable twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sst_cvx.hull.linear import AffineRows
from sst_cvx.once import later
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.matrix import SparseMatrix

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


@dataclass(frozen=True)
class Layout:
    """What a standard form makes of the rows and columns of a hull.

    Attributes:
        below, above: rows with one entry that bound its column from below, from above.
        column, factor: place and value of each row's first entry.
        fixed: which columns have one value, given by a row.
        order: columns that stay, the event's first.
        free: places of the event's columns that stay in the flat event.
        scale: factor of each row.
        kept: rows of M, the equalities first; equalities: how many these are.
        dependent: equalities that follow from others, if all of them can hold.
        vacuous: rows without any column that stays; vacuous_equal: which of them are equalities.
    """

    below: np.ndarray
    above: np.ndarray
    column: np.ndarray
    factor: np.ndarray
    fixed: np.ndarray
    order: np.ndarray
    free: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    equalities: int
    dependent: np.ndarray
    vacuous: np.ndarray
    vacuous_equal: np.ndarray


@dataclass
class SideValues:
    """At given parameters.

    Attributes:
        right: right sides of M, ``(batch, rows)``.
        bounds: lower and upper, ``(batch, 2, columns)``.
        event: the flat event with its fixed coordinates, 0 elsewhere, ``(batch, size)``.
        dependent: right sides of the equalities that were left out, ``(batch, dependent)``.
        broken: whether bounds cross, or rows without free columns are violated, ``(batch,)``.
    """

    right: torch.Tensor
    bounds: torch.Tensor
    event: torch.Tensor
    dependent: torch.Tensor
    broken: torch.Tensor

    def expand(self, batch: int) -> SideValues:
        """Of one element, the same for a batch."""
        parts = (self.right, self.bounds, self.event, self.dependent, self.broken)
        return SideValues(*(part.expand(batch, *part.shape[1:]) for part in parts))


class Sides:
    """Of one standard form, on one device."""

    def __init__(self, rows: AffineRows, layout: Layout, domain: tuple[float, float], device: torch.device):
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, device=device)

        self._rows, self._device = rows, device
        general = np.concatenate([layout.kept, layout.dependent, layout.vacuous])
        self._general, self._counts = tensor(general), [layout.kept.size, layout.dependent.size, layout.vacuous.size]
        self._slacks = layout.kept.size - layout.equalities
        self._right, self._scale = tensor(rows.right), tensor(layout.scale[general])
        self._sensitivity = SparseMatrix(rows.sensitivity, device)
        matrix = rows.matrix[general]
        self._moved = SparseMatrix(matrix[:, np.flatnonzero(layout.fixed)], device) if layout.fixed.any() else None
        scaled = sp.diags_array(layout.scale[layout.dependent]) @ rows.matrix[layout.dependent][:, layout.order]
        self._dependent, self._dependent_columns = SparseMatrix(scaled, device), layout.order.size
        self._fixed, self._order, self._event = tensor(layout.fixed), tensor(layout.order), tensor(rows.event)
        self._vacuous_equal = tensor(layout.vacuous_equal)
        self._candidates = []
        for side, numbers in enumerate((layout.below, layout.above)):
            end = np.full(layout.fixed.size, np.inf if side else -np.inf)
            end[rows.event] = domain[side]
            parts = (end, numbers, layout.column[numbers].astype(np.int64), layout.factor[numbers])
            self._candidates.append([tensor(part) for part in parts])

    def theta(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Parameters ``(batch, *shape)`` by name, as ``(batch, count)``."""
        return self._rows.theta(values).to(self._device)

    def unknown(self) -> torch.Tensor:
        """Parameters of one element that are not known: what depends on them is not a number."""
        count = self._rows.sensitivity.shape[1]  # type: ignore[index]
        return torch.full((1, count), torch.nan, dtype=torch.float64, device=self._device)

    def at(self, theta: torch.Tensor) -> SideValues:
        """At parameters ``(batch, count)``."""
        b = self._right + self._sensitivity.times(theta)
        lower, upper = (self._ends(b, side) for side in (0, 1))
        general = b[:, self._general]
        right = general if self._moved is None else general - self._moved.times(lower[:, self._fixed])
        right, dependent, vacuous = (right * self._scale).split(self._counts, 1)
        below = torch.nn.functional.pad(lower[:, self._order], (0, self._slacks))
        above = torch.nn.functional.pad(upper[:, self._order], (0, self._slacks), value=torch.inf)
        bounds = torch.stack([below, above], 1) + 0.0  # no negative zeros
        event = torch.where(self._fixed, lower, 0.0)[:, self._event]
        crossed = ((lower - upper) > tolerances.CROSSED * (1 + lower.abs())).any(1)
        size = 1 + general.split(self._counts, 1)[2].abs()
        short = torch.where(self._vacuous_equal, -vacuous.abs(), vacuous) < -tolerances.CROSSED * size
        return SideValues(right, bounds, event, dependent, crossed | short.any(1))

    def _ends(self, b: torch.Tensor, side: int) -> torch.Tensor:
        """Greatest lower, or least upper bounds of the hull's columns, from the right sides of all rows."""
        end, rows, column, factor = self._candidates[side]
        ends = end.repeat(len(b), 1)
        return ends.scatter_reduce(1, column.expand(len(b), -1), b[:, rows] / factor, "amin" if side else "amax")

    def inconsistent(self, w: torch.Tensor, dependent: torch.Tensor) -> torch.Tensor:
        """Where solutions ``(batch, columns)`` violate equalities that were left out because others imply them."""
        if not dependent.shape[1]:
            return torch.zeros(len(w), dtype=torch.bool, device=w.device)
        left = self._dependent.times(w[:, : self._dependent_columns]) - dependent
        return (left.abs() > tolerances.INCONSISTENT * (1 + dependent.abs())).any(1)
