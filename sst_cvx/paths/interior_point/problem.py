"""What goes from step to step of a solve: dataclasses of tensors whose first dimension is the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch

from sst_cvx.paths.interior_point.linear_algebra import LinearAlgebra


class Batched:
    """Elements are taken out and put back together."""

    def take(self, index: torch.Tensor) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))  # type: ignore[arg-type]

    def put(self, index: torch.Tensor, other: Self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            getattr(self, f.name)[index] = getattr(other, f.name)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Of consecutive parts of a batch."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))  # type: ignore[arg-type]


@dataclass
class Problem(Batched):
    """min t f(x) - <c, w> over { M w = r, lower <= w <= upper }, in units where utilities have a range of order 1.

    Attributes:
        linear: c, ``(batch, columns)``, zero beyond the event.
        temperature: t, times the regularizer's weights, ``(batch, event_columns)``.
        right: r, ``(batch, rows)``.
        bounds: lower and upper, ``(batch, 2, columns)``.
        ends: those of them with a barrier, ``(batch, barriers)``.
        coldest: the smallest temperature, ``(batch, 1)``.
        pinned: columns whose bounds coincide, at parameter values that leave them no room, ``(batch, columns)``.
        rows: M.
    """

    linear: torch.Tensor
    temperature: torch.Tensor
    right: torch.Tensor
    bounds: torch.Tensor
    ends: torch.Tensor
    coldest: torch.Tensor
    pinned: torch.Tensor
    rows: LinearAlgebra


@dataclass
class Iterate(Batched):
    """Of the interior-point solver.

    Attributes:
        w: columns.
        y: multipliers of the rows.
        z: multipliers of the barriers.
        temperature_factor: on the target temperature, ``(batch, 1)``.
    """

    w: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor
    temperature_factor: torch.Tensor


@dataclass
class Solution(Batched):
    """Of the polish.

    Attributes:
        w: columns.
        y: multipliers of the rows.
        side: -1, 0, 1 for columns at their lower bound, free, at their upper bound.
        accepted: which elements are right, ``(batch,)``.
    """

    w: torch.Tensor
    y: torch.Tensor
    side: torch.Tensor
    accepted: torch.Tensor


def largest(x: torch.Tensor) -> torch.Tensor:
    """Largest absolute entry of each element, ``(batch,)``; 0 where there are none."""
    return x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
