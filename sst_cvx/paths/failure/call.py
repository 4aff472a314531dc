"""What one call asked and answered, for what is computed of it later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sst_cvx.paths.base import Batch


@dataclass
class Call:
    """Flat copies, which the caller cannot overwrite, with their graph.

    Attributes:
        u, x: ``(count, *event_shape)``; t: ``(count,)``, float64.
        parameters: of the hull, ``(count, *shape)``; allowed: by masks, shape of u, or None.
        solved: rows that are X_t(u), ``(solved,)``.
        closest: by row, the soft argmax over the relaxed hull, and the least violation.
    """

    u: torch.Tensor
    t: torch.Tensor
    x: torch.Tensor
    parameters: dict[str, torch.Tensor]
    allowed: torch.Tensor | None
    solved: torch.Tensor
    closest: dict[int, tuple[Any, float]]

    @staticmethod
    def of(batch: Batch, x: torch.Tensor, solved: torch.Tensor, closest: dict[int, tuple[Any, float]]) -> Call:
        allowed = None if batch.mask is None else batch.mask.allowed.clone()
        parameters = {name: v.clone() for name, v in batch.parameters.items()}
        t = batch.temperatures.to(torch.float64, copy=True)
        return Call(batch.u.clone(), t, x.clone(), parameters, allowed, solved, closest)

    def at(self, rows: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """u, x and t of some rows, and their hull parameters and ``mask``."""
        more = {name: v[rows.cpu()] for name, v in self.parameters.items()}
        more |= {} if self.allowed is None else {"mask": self.allowed[rows]}
        return (self.u[rows], self.x[rows], self.t[rows]), more
