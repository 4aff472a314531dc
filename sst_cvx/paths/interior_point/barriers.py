"""Which bounds get a barrier, and how far points are from them."""

from __future__ import annotations

import numpy as np
import torch

from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.regularizers import SeparableRegularizer


class Barriers:
    """All finite bounds but those where phi' is infinite, as flat lists."""

    def __init__(self, form: StandardForm, regularizer: SeparableRegularizer, device: torch.device):
        present, events = ~np.isinf(form.ends), form.event_columns
        for side, (end, steep) in enumerate(zip(regularizer.domain, regularizer.steep, strict=True)):
            if steep:  # a bound that moves with the parameters, NaN, may be inside the domain
                present[side, :events] &= form.ends[side, :events] != end
        side, column = np.nonzero(present)
        self.side, self.column = (torch.as_tensor(a, device=device) for a in (side, column))
        self.sign = 1.0 - 2.0 * self.side.double()
        self.count = column.size
        self._lower = int((side == 0).sum())
        # Bounds of neighbouring columns are slices, which are faster than lists of columns.
        halves = [column[side == i] for i in (0, 1)]
        whole = all(np.array_equal(half, half[:1] + np.arange(half.size)) for half in halves)
        self._slices = [slice(int(h[0]), int(h[-1]) + 1) if h.size else slice(0, 0) for h in halves] if whole else None

    def ends(self, bounds: torch.Tensor) -> torch.Tensor:
        """The bounds with a barrier, times their sign, ``(batch, count)``."""
        return self.sign * bounds[:, self.side, self.column]

    def along(self, w: torch.Tensor) -> torch.Tensor:
        """Columns times the sign of their barriers, ``(batch, count)``: the change of the gaps with w."""
        if self._slices is None:
            return self.sign * w[:, self.column]
        lower, upper = (w[:, part] for part in self._slices)
        return lower if self._lower == self.count else torch.cat([lower, -upper], 1)

    def gaps(self, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Distances to the bounds, ``(batch, count)``, positive inside."""
        return self.along(w) - ends

    def add(self, w: torch.Tensor, values: torch.Tensor, signed: bool = True) -> torch.Tensor:
        """w plus values (times their sign) in their columns."""
        if self._slices is None:
            return w.index_add(1, self.column, self.sign * values if signed else values)
        (low, high), sum_ = self._slices, w.clone()
        sum_[:, low] += values[:, : self._lower]
        if self._lower < self.count:
            sum_[:, high].add_(values[:, self._lower :], alpha=-1 if signed else 1)
        return sum_
