"""The categorical (negative Shannon) entropy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sst_cvx.once import later
from sst_cvx.regularizers.base import TINY, SeparableRegularizer, largest_coordinate
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class CategoricalEntropy(SeparableRegularizer, certified=True):
    """f = sum_i a_i x_i log x_i, the negative entropy, on x >= 0."""

    domain = (0.0, math.inf)
    steep = (True, False)
    slope_origin = 1.0  # phi'(1)

    def terms(self, variable: Any) -> Any:
        return -cp.entr(variable)

    def elementwise(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.xlogy(x, x)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=TINY).log() + 1

    def slope_near(self, x: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        near = x + e
        return near.log() + 1, (e + torch.special.xlogy(x, x / near)).clamp(min=0.0)

    def slope_of_log(self, log: torch.Tensor) -> torch.Tensor:
        return log + 1

    def curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=TINY).reciprocal()

    def inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        return (s - 1).exp()

    def unit_inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        return s.clamp(max=0.0).exp()

    def unit_inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x < 1)

    def modulus(self, structure: Structure) -> float:
        return 1.0 / largest_coordinate(structure)
