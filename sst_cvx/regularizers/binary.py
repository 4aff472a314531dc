"""The binary entropy."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import torch

from sst_cvx.regularizers.base import TINY, SeparableRegularizer
from sst_cvx.structure.base import Structure


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
