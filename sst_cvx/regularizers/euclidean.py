"""The Euclidean regularizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sst_cvx.once import later
from sst_cvx.regularizers.base import SeparableRegularizer
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Euclidean(SeparableRegularizer, certified=True):
    """f = 1/2 sum a_i x_i^2: the soft argmax is the Euclidean projection of u / t."""

    unit_slopes = 1.0

    def terms(self, variable: Any) -> Any:
        return cp.square(variable) / 2

    def expression(self, variable: cp.Variable) -> Any:
        return cp.sum_squares(variable) / 2 if self.weights is None else super().expression(variable)

    def elementwise(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * x

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def curvature(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x)

    def unit_inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        return s.clamp(0.0, 1.0)

    def unit_inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x.frac().sign()  # 1 inside, 0 at both ends

    def modulus(self, structure: Structure) -> float:
        return 1.0
