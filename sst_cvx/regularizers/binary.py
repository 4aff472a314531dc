"""The binary entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sst_cvx.once import later
from sst_cvx.regularizers.base import TINY, SeparableRegularizer
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class BinaryEntropy(SeparableRegularizer, certified=True):
    """f = sum_i a_i (x_i log x_i + (1 - x_i) log(1 - x_i)), on 0 <= x <= 1."""

    domain = (0.0, 1.0)
    steep = (True, True)

    def terms(self, variable: Any) -> Any:
        return -cp.entr(variable) - cp.entr(1 - variable)

    def elementwise(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.xlogy(x, x) + torch.special.xlog1py(1 - x, -x)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=TINY).log() - (1 - x).clamp(min=TINY).log()

    def slope_near(self, x: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As declared; 1 - x' keeps its digits."""
        rest, up = 1 - x, x <= 0.5
        low, high = torch.where(up, x + e, 1 - (rest + e)), torch.where(up, 1 - (x + e), rest + e)
        divergence = torch.special.xlogy(x, x / low) + torch.special.xlogy(rest, rest / high)
        return low.log() - high.log(), divergence.clamp(min=0.0)

    def slope_of_log(self, log: torch.Tensor) -> torch.Tensor:
        return log - torch.where(log > -1, (-log.expm1()).clamp(min=TINY).log(), (-log.exp()).log1p())

    def curvature(self, x: torch.Tensor) -> torch.Tensor:
        return (x * (1 - x)).clamp(min=TINY).reciprocal()

    def inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 - x)

    def inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(s)

    def unit_inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(s)

    def unit_inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 - x)

    def modulus(self, structure: Structure) -> float:
        return 4.0
