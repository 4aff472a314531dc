"""Tsallis entropies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sst_cvx.host import may_ask
from sst_cvx.once import later
from sst_cvx.regularizers.base import TINY, SeparableRegularizer, largest_coordinate
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_MOST_SLOPE = {torch.float64: 1e100, torch.float32: 1e15}  # of dx / du at entries next to 0, where alpha > 2


class TsallisEntropy(SeparableRegularizer, certified=True):
    """f = sum_i a_i (x_i^alpha - x_i) / (alpha (alpha - 1)) with alpha > 0 other than 1, on x >= 0.

    Peters, Niculae and Martins, "Sparse sequence-to-sequence models" (ACL 2019), with the sign turned. alpha = 2 is
    Euclidean up to a linear term that is constant where sum x is; alpha -> 1 is the categorical entropy. Below 1 no
    entry is 0. On [0, 1]^n it is 1-strongly convex for alpha <= 2. For alpha > 2 it is strictly convex alone where
    entries may be 0: its modulus is 0, dx/du has no bound next to 0, and a gap says, in place of
    ``t m / 2 |x - X_t|^2 <= gap``, ::

        t / (alpha (alpha - 1)) sum_i |x_i - X_t,i|^alpha  <=  gap.

    Args:
        alpha: a number; or a tensor, learnable (register it as a parameter of your module) and read at each call, of
            shape ``()`` or ``(count,)``, one a row of the batch (flattened, if it has more dimensions), on OneHot,
            KSubset, AtMostKSubset and Hypercube. In a tensor, 1 is the categorical entropy.
        weights: the a_i.

    Raises:
        TypeError, ValueError: alpha is not a positive number, 1, or a tensor of another kind.
    """

    domain = (0.0, math.inf)

    def __init__(self, alpha: float | torch.Tensor = 1.5, weights: Any = None):
        super().__init__(weights)
        if isinstance(alpha, torch.Tensor):
            if not alpha.is_floating_point():
                raise TypeError(f"alpha must be a floating-point tensor, got {alpha.dtype}.")
            if alpha.dim() > 1:
                raise ValueError(f"alpha must be one number, or one a row of the flat batch, got {tuple(alpha.shape)}.")
            if weights is not None:
                raise ValueError("weights do not go with a tensor alpha: fast paths take none.")
            self.alpha: Any = alpha
            self.alpha_of(alpha.detach()[..., None])
            self.unit_slopes = self.slope_origin = math.nan
            return
        if isinstance(alpha, bool) or not (isinstance(alpha, (int, float)) and 0 < alpha < math.inf) or alpha == 1:
            raise ValueError(
                f"alpha must be positive, and not 1, got {alpha!r}; for alpha = 1 use CategoricalEntropy()."
            )
        self.alpha = a = float(alpha)
        self.steep = (a < 1, False)
        self.unit_slopes = 1 / (a - 1) if a > 1 else math.inf
        self.slope_origin = -1 / (a * (a - 1)) if a > 1 else 1 / a  # phi'(0), phi'(1)

    @property
    def is_tensor(self) -> bool:
        """Whether alpha is a tensor."""
        return isinstance(self.alpha, torch.Tensor)

    def alpha_of(self, x: torch.Tensor) -> Any:
        """alpha for ``(*batch, n)``: a number, or ``()`` or ``(*batch, 1)``, of the dtype and device of x.

        Raises:
            ValueError: not positive; not one number, and not one a row either.
        """
        if not self.is_tensor:
            return self.alpha
        alpha, shape = self.alpha.to(x.device, x.dtype), x.shape[:-1]
        if alpha.dim():
            if len(alpha) != shape.numel():
                raise ValueError(
                    f"alpha has {len(alpha)} numbers, but the batch {tuple(shape)} has {shape.numel()} rows: give one "
                    "number, or one a row (of a batch of more dimensions: flattened, as alpha.expand(batch).flatten())."
                )
            alpha = alpha.reshape(*shape, 1)
        if may_ask(alpha):
            if not bool((torch.isfinite(alpha) & (alpha > 0)).all()):
                raise ValueError("alpha must be positive and finite everywhere.")
            return alpha
        return torch.where(alpha > 0, alpha, torch.nan)

    def expression(self, variable: cp.Variable) -> Any:
        self._refuse_tensor()
        return super().expression(variable)

    def terms(self, variable: Any) -> Any:
        self._refuse_tensor()
        a = self.alpha
        return (cp.power(variable, a) - variable) / (a * (a - 1))

    def _refuse_tensor(self) -> None:
        if self.is_tensor:
            raise ValueError(
                "a tensor alpha is for the fast paths of OneHot, KSubset, AtMostKSubset and Hypercube: give a number."
            )

    def elementwise(self, x: torch.Tensor) -> torch.Tensor:
        a, x = self.alpha_of(x), x.clamp(min=0)
        if not self.is_tensor:
            return (x.pow(a) - x) / (a * (a - 1))
        shannon, q = torch.special.xlogy(x, x), a - 1
        near = q.abs() < 1e-5  # x (x^q - 1) / (q a): its limit and the next term
        far = x * torch.expm1(q * x.clamp(min=TINY).log()) / torch.where(near, 1.0, q)
        return torch.where(near, shannon * (1 + 0.5 * q * x.clamp(min=TINY).log()), far) / a

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        a = self.alpha_of(x)
        if self.is_tensor:  # log_a(x) + 1 / a, log_a the inverse of the deformed exponential
            q, log = a - 1, x.clamp(min=TINY).log()
            near = (q * log).abs() < 1e-6
            return torch.where(near, log * (1 + 0.5 * q * log), (q * log).expm1() / torch.where(near, 1.0, q)) + 1 / a
        return (a * x.clamp(min=TINY if a < 1 else 0).pow(a - 1) - 1) / (a * (a - 1))

    def curvature(self, x: torch.Tensor) -> torch.Tensor:
        a = self.alpha_of(x)
        least = TINY if self.is_tensor or a >= 1 else TINY ** (1 / (2 - a))
        return x.clamp(min=least).pow(a - 2)

    def inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        inside = x > 0
        return self._power(torch.where(inside, x, 1.0)) * inside  # finite derivatives at x = 0

    def inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        a = self.alpha_of(s)
        if self.is_tensor:
            return deformed_exponential(s - 1 / a, a - 1)
        if a < 1:  # infinite at and beyond 1 / (a (1 - a))
            return ((a - 1) * s + 1 / a).clamp(min=1e-6).pow(1 / (a - 1))
        return ((a - 1) * s + 1 / a).clamp(min=0).pow(1 / (a - 1))

    def within_box(self, u: torch.Tensor) -> torch.Tensor:
        """The x in [0, 1] whose slope is nearest to u; differentiable in u and alpha."""
        a = self.alpha_of(u)
        return deformed_exponential(u - 1 / a, a - 1)

    def unit_inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        if self.is_tensor or self.alpha < 1:
            return deformed_exponential(s, self.alpha_of(s) - 1)
        z = (s * (self.alpha - 1)).clamp(0.0, 1.0)
        if self.alpha > 2:
            inside = z > 0
            return torch.where(inside, z, 1.0).pow(1 / (self.alpha - 1)) * inside
        return z * z if self.alpha == 1.5 else z.pow(1 / (self.alpha - 1))

    def unit_inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        x = x.frac()  # 0 at both ends
        inside = x > 0
        return self._power(torch.where(inside, x, 1.0)) * inside  # finite derivatives at x = 0

    def _power(self, x: torch.Tensor) -> torch.Tensor:
        """x^(2 - alpha)."""
        a = self.alpha_of(x)
        power = x.pow(2 - a)
        return power.clamp(max=_MOST_SLOPE[x.dtype]) if self.is_tensor or a > 2 else power

    def modulus(self, structure: Structure) -> float:
        self._refuse_tensor()  # here, where the paths that solve first ask for it
        if self.alpha > 2:
            reach = structure.coordinate_range()
            return 0.0 if reach is None else max(float(reach[0].min()), 0.0) ** (self.alpha - 2)
        return largest_coordinate(structure) ** (self.alpha - 2)

    def __repr__(self) -> str:
        weighted = "" if self.weights is None else f", weights={tuple(self.weights.shape)}"
        alpha = f"tensor{tuple(self.alpha.shape)}" if self.is_tensor else f"{self.alpha:g}"
        return f"TsallisEntropy(alpha={alpha}{weighted})"


def deformed_exponential(d: torch.Tensor, q: Any) -> torch.Tensor:
    """min(max(1 + q d, 0), 1)^(1/q), exp(min(d, 0)) for q = 0; differentiable in both, by 0 at its ends."""
    y, full = q * d, (d >= 0).to(d.dtype)
    inside = (d < 0) & (y > -1)
    near = inside & (y.abs() < 1e-3)
    small, d = torch.where(near, y, 0.0), torch.where(inside, d, -1.0)
    series = 1 - small * (1 / 2 - small * (1 / 3 - small * (1 / 4 - small * (1 / 5 - small / 6))))
    far = torch.where(inside & ~near, y, -0.5)
    rate = torch.where(near, series, far.log1p() / far)  # log(1 + y) / y
    return torch.where(y.isnan(), y, torch.where(inside, (d * rate).exp(), full))
