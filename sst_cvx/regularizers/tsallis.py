"""Tsallis entropies."""

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


class TsallisEntropy(SeparableRegularizer, certified=True):
    """f = sum_i a_i (x_i^alpha - x_i) / (alpha (alpha - 1)) with 1 < alpha <= 2, on x >= 0.

    Peters, Niculae and Martins, "Sparse sequence-to-sequence models" (ACL 2019), with the sign turned. alpha = 2 is
    Euclidean up to a linear term that is constant where sum x is; alpha -> 1 is the categorical entropy.
    """

    domain = (0.0, math.inf)

    def __init__(self, alpha: float = 1.5, weights: Any = None):
        if not (isinstance(alpha, (int, float)) and 1 < alpha <= 2):
            raise ValueError(f"alpha must be in (1, 2], got {alpha!r}; for alpha = 1 use CategoricalEntropy().")
        super().__init__(weights)
        self.alpha = float(alpha)
        self.unit_slopes, self.slope_origin = 1 / (self.alpha - 1), -1 / (self.alpha * (self.alpha - 1))

    def terms(self, variable: Any) -> Any:
        a = self.alpha
        return (cp.power(variable, a) - variable) / (a * (a - 1))

    def elementwise(self, x: torch.Tensor) -> torch.Tensor:
        return (x.clamp(min=0).pow(self.alpha) - x) / (self.alpha * (self.alpha - 1))

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        a = self.alpha
        return (a * x.clamp(min=0).pow(a - 1) - 1) / (a * (a - 1))

    def curvature(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=TINY).pow(self.alpha - 2)

    def inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        inside = x > 0
        return torch.where(inside, x, 1.0).pow(2 - self.alpha) * inside  # finite derivatives at x = 0

    def inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        a = self.alpha
        return ((a - 1) * s + 1 / a).clamp(min=0).pow(1 / (a - 1))

    def unit_inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        z = (s * (self.alpha - 1)).clamp(0.0, 1.0)
        return z * z if self.alpha == 1.5 else z.pow(1 / (self.alpha - 1))

    def unit_inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        x = x.frac()  # 0 at both ends
        inside = x > 0
        return torch.where(inside, x, 1.0).pow(2 - self.alpha) * inside  # finite derivatives at x = 0

    def modulus(self, structure: Structure) -> float:
        return largest_coordinate(structure) ** (self.alpha - 2)

    def __repr__(self) -> str:
        weighted = "" if self.weights is None else f", weights={tuple(self.weights.shape)}"
        return f"TsallisEntropy(alpha={self.alpha:g}{weighted})"
