"""The hull of a set that is known by its argmax alone: what its support function tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sst_cvx.once import computed_once, state_without_computed


class UnknownHull:
    """Beside ``CompiledHull``, with the same questions.

    Args:
        size: number of event coordinates.
        argmax: directions ``(count, size)``, float64, to points of X ``(count, size)`` that go furthest along them.
    """

    known = False
    linear = False
    sees_everything = False
    auxiliary: tuple[Any, ...] = ()
    nonlinearity = "the structure has no hull"

    def __init__(self, size: int, argmax: Callable[[torch.Tensor], torch.Tensor]):
        self._size, self._argmax = size, argmax

    def __getstate__(self) -> dict[str, Any]:
        return state_without_computed(self)

    @computed_once
    def _support(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions ``(count, size)``, and the largest <d, x> over X: both ways along each coordinate, and the sum."""
        axes = torch.eye(self._size, dtype=torch.float64)
        directions = torch.cat([axes, -axes, axes.sum(0, keepdim=True), -axes.sum(0, keepdim=True)])
        return directions, (self._argmax(directions) * directions).sum(1)

    def violation(self, x: torch.Tensor, values: object = None) -> torch.Tensor:
        """How far points ``(batch, size)`` are beyond the support function along a few directions, ``(batch,)``."""
        del values
        directions, support = (part.to(x.device, x.dtype) for part in self._support)
        return ((x @ directions.T - support) / (1 + support.abs())).amax(1)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        """There is no quick way."""
        del x, tolerance
        return False

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of each event coordinate."""
        del tight
        ends = self._support[1].numpy()
        return -ends[self._size : 2 * self._size], ends[: self._size]

    def check_bounded(self) -> None:
        """X is finite."""
