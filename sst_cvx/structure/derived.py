"""What a structure makes of its own declaration: a face of its hull, and the declared hull where it is looser."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sst_cvx.structure.base import Structure
from sst_cvx.structure.composable import makes


@makes("face")
class Face(Structure, final=True):
    """What ``Structure.face`` makes: the declared hull with items at 0, and those of the listed elements left."""

    known_binary = True  # others have no masks

    def __init__(self, whole: Structure, constraints: list[Any], kept: np.ndarray):
        self._whole, self._kept = whole, kept
        super().__init__(whole.variable, constraints, parameters=whole.parameters, integral=whole.integral)

    def has_vertices(self) -> bool:
        return self._whole.has_vertices()

    def vertices(self) -> torch.Tensor:
        points = self._whole.vertices()
        return points[(points.flatten(1)[:, torch.from_numpy(~self._kept)] == 0).all(1)]


@makes("relaxed")
class Relaxed(Structure, final=True):
    """What ``Structure.relaxed`` is where the declared hull is looser than conv(X): argmax by linear programs."""

    known_bounded = True  # or else the other would not be

    def __init__(self, whole: Structure):
        self._whole = whole
        super().__init__(whole.variable, whole.constraints, parameters=whole.parameters)
        self.hull = whole.hull

    @property
    def known_binary(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Masks are those of the whole."""
        return self._whole.binary

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        return self._whole.fillers(allowed)
