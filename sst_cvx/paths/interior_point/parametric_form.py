"""The standard form of a hull whose right sides depend on parameters: evaluated in torch, differentiably.

What depends on parameter values cannot be presolved: rows that turn into equalities at some values, or an empty hull,
show as elements that do not converge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from sst_cvx.hull.linear import AffineRows, independent_rows
from sst_cvx.paths.interior_point.standard_form import StandardForm


class ParametricForm:
    """``form`` has the matrix and which bounds exist; ``at`` gives right sides and bounds at parameter values."""

    def __init__(self, rows: AffineRows, domain: tuple[float, float]):
        self._rows, self._domain = rows, domain
        A: Any = rows.matrix
        A.eliminate_zeros()
        equal = np.arange(rows.right.size) < rows.equalities
        single = np.diff(A.indptr) == 1
        first = np.minimum(A.indptr[:-1], max(A.nnz - 1, 0))
        column, factor = A.indices[first], A.data[first]
        # Candidates for bounds: (row, column, factor) of singleton rows; equalities bound from both sides.
        self._lower = np.flatnonzero(single & (equal | (factor < 0)))
        self._upper = np.flatnonzero(single & (equal | (factor > 0)))
        self._column, self._factor = column, factor
        pinned = np.unique(column[single & equal])
        in_rows = np.diff(sp.csc_array(A[np.flatnonzero(~single)]).indptr) > 0
        is_event = np.zeros(A.shape[1], bool)
        is_event[rows.event] = True
        is_pinned = np.isin(np.arange(A.shape[1]), pinned)
        free = np.flatnonzero(~is_pinned[rows.event])
        auxiliary = np.flatnonzero(~is_event & ~is_pinned & in_rows)
        self._order = np.concatenate([rows.event[free], auxiliary])
        self._pinned = is_pinned
        self._split_rows(single, equal)
        self.form = self._pattern(free)
        self._tensors: dict[torch.device, dict[str, torch.Tensor]] = {}

    def _split_rows(self, single: np.ndarray, equal: np.ndarray) -> None:
        """Equalities (a largest independent set first, the dependent ones to be checked) and inequalities."""
        core = self._rows.matrix[:, self._order]
        size = abs(core).max(axis=1).toarray().ravel() if self._order.size else np.zeros(len(single))
        self._scale = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 1.0)
        core = sp.csr_array(sp.diags_array(self._scale) @ core)
        equalities = np.flatnonzero(~single & equal & (size > 0))
        chosen = equalities[independent_rows(core[equalities])]
        self._dependent = np.setdiff1d(np.flatnonzero(~single & equal), chosen)
        self._kept = np.concatenate([chosen, np.flatnonzero(~single & ~equal & (size > 0))])
        self._vacuous = np.flatnonzero(~single & (size == 0)), equal[~single & (size == 0)]
        self._equalities, self._core, self._scaled = chosen.size, core[self._kept], core

    def _pattern(self, free: np.ndarray) -> StandardForm:
        """Which bounds exist. One that moves with the parameters is put inside the domain, to get a barrier."""
        moves = np.asarray(abs(self._rows.sensitivity).sum(1)).ravel() > 0
        ends = []
        for candidates, combine, limit in (
            (self._lower, np.maximum, self._domain[0]),
            (self._upper, np.minimum, self._domain[1]),
        ):
            end = np.full(self._pinned.size, -np.inf if combine is np.maximum else np.inf)
            end[self._rows.event] = limit
            values = np.where(moves, 0.5, self._rows.right)[candidates] / self._factor[candidates]
            values[moves[candidates]] = 0.5
            combine.at(end, self._column[candidates], values)
            ends.append(end[self._order])
        slacks = self._kept.size - self._equalities
        lower, upper = np.concatenate([ends[0], np.zeros(slacks)]), np.concatenate([ends[1], np.full(slacks, np.inf)])
        constant = np.zeros(self._rows.event.size)
        return StandardForm(
            self._core, np.zeros(self._kept.size), lower, upper, self._equalities, free.size, free, constant, start=None
        )  # fmt: skip

    def _on(self, device: torch.device) -> dict[str, torch.Tensor]:
        if device not in self._tensors:
            arrays = {
                "right": self._rows.right,
                "sensitivity": self._rows.sensitivity.toarray().T.copy(),
                "scale": self._scale,
                "factor": self._factor,
                "column": self._column,
                "pinned": self._rows.matrix[:, np.flatnonzero(self._pinned)].toarray().T.copy(),
                "scaled": self._scaled.toarray().T.copy(),
            }
            self._tensors[device] = {name: torch.as_tensor(a, device=device) for name, a in arrays.items()}
        return self._tensors[device]

    def at(
        self, values: dict[str, torch.Tensor], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right sides ``(batch, rows)``, bounds ``(batch, 2, columns)``, the event's pinned values ``(batch, size)``,
        right sides of dependent rows, and whether bounds or rows without free columns are violated ``(batch,)``."""
        own, columns = self._on(device), self._pinned.size
        theta = self._rows.theta(values).to(device)
        b = own["right"] + theta @ own["sensitivity"]
        ends = []
        for candidates, reduce, limit in (
            (self._lower, "amax", self._domain[0]),
            (self._upper, "amin", self._domain[1]),
        ):
            end = b.new_full((columns,), -torch.inf if reduce == "amax" else torch.inf)
            end[torch.as_tensor(self._rows.event, device=device)] = limit
            index = own["column"][candidates].expand(len(b), -1).long()
            bounds = b[:, candidates] / own["factor"][candidates]
            ends.append(end.repeat(len(b), 1).scatter_reduce(1, index, bounds, reduce))
        fixed = ends[0][:, self._pinned]
        right = (b - fixed @ own["pinned"]) * own["scale"]
        slacks = self._kept.size - self._equalities
        lower = torch.nn.functional.pad(ends[0][:, self._order], (0, slacks))
        upper = torch.nn.functional.pad(ends[1][:, self._order], (0, slacks), value=torch.inf)
        event = torch.where(torch.as_tensor(self._pinned, device=device), ends[0], 0.0)[:, self._rows.event]
        crossed = ((ends[0] - ends[1]) > 1e-9 * (1 + ends[0].abs())).any(1)
        vacuous, equal = self._vacuous  # rows over pinned columns alone, or over none: they hold or they do not
        left = right[:, vacuous]
        left = torch.where(torch.as_tensor(equal, device=device), -left.abs(), left)
        crossed |= (left < -1e-9 * (1 + b[:, vacuous].abs())).any(1)
        return right[:, self._kept], torch.stack([lower, upper], 1), event, right[:, self._dependent], crossed

    def inconsistent(self, w: torch.Tensor, dependent: torch.Tensor) -> torch.Tensor:
        """Where a solution violates the equalities that were left out because their rows depend on others."""
        left = w[:, : self._order.size] @ self._on(w.device)["scaled"][:, self._dependent] - dependent
        return (left.abs() > 1e-8 * (1 + dependent.abs())).any(1)


def start_between(bounds: torch.Tensor) -> torch.Tensor:
    """A point inside the bounds, for an infeasible start: in the middle, or one away from a single bound."""
    lower, upper = bounds.detach().unbind(1)
    below, above = torch.isfinite(lower), torch.isfinite(upper)
    alone = torch.where(below, lower + 1, torch.where(above, upper - 1, 0.0))
    return torch.where(below & above, 0.5 * (lower + upper), alone)
