"""Separable soft argmax over { 0 <= x <= 1, sum x = total }: one dual variable, found by a batched threshold search.

With f(x) = sum phi(x_i), stationarity gives x_i = g(u_i - nu), where g is the inverse of phi' clipped to [0, 1], and
nu is the root of the decreasing function sum_i g(u_i - nu) = total. By the implicit function theorem

    dx/du = diag(w) - w w' / sum w,    w_i = g'(u_i - nu),

a symmetric matrix, so one formula serves as Jacobian-vector and vector-Jacobian product. w is written as a function
of x: the backward needs nothing else, and autograd differentiates it again (double backward).
"""

from __future__ import annotations

import math
from typing import Any

import torch

_MAX_STEPS = 200


class Response:
    """g and g' of one regularizer, up to a shift of the argument."""

    #: g rises from 0 to 1 on an interval of this length, starting at 0 (infinite: no such interval).
    reach = math.inf

    def value(self, s: torch.Tensor) -> torch.Tensor:
        """x = g(s)."""
        raise NotImplementedError

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """w = g'(g^-1(x)); where g has a kink, one of its two slopes."""
        raise NotImplementedError


class EuclideanResponse(Response):
    """g(s) = min(max(s, 0), 1)."""

    reach = 1.0

    def value(self, s: torch.Tensor) -> torch.Tensor:
        return s.clamp(0.0, 1.0)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return ((x > 0) & (x < 1)).to(x.dtype)


class TsallisResponse(Response):
    """g(s) = min(max((alpha - 1) s, 0)^(1 / (alpha - 1)), 1)."""

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.reach = 1.0 / (alpha - 1.0)

    def value(self, s: torch.Tensor) -> torch.Tensor:
        z = (s * (self.alpha - 1.0)).clamp(0.0, 1.0)
        return z * z if self.alpha == 1.5 else z.pow(self.reach)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        inside = (x > 0) & (x < 1)
        return torch.where(inside, x, 1.0).pow(2.0 - self.alpha) * inside  # finite derivatives at x = 0


class BinaryResponse(Response):
    """g(s) = 1 / (1 + exp(-s))."""

    def value(self, s: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(s)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 - x)


class CategoricalResponse(Response):
    """g(s) = min(exp(s), 1)."""

    def value(self, s: torch.Tensor) -> torch.Tensor:
        return s.clamp(max=0.0).exp()

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x < 1)


def threshold_map(u: torch.Tensor, total: int, response: Response) -> torch.Tensor:
    """argmax { <u, x> - f(x) : 0 <= x <= 1, sum x = total } over the last dimension, differentiable twice.

    Args:
        u: utilities divided by the temperature, ``(*batch, n)``.
        total: an integer, 0 <= total <= n.
    """
    if total == 0 or total == u.shape[-1]:  # one point only
        return u * 0 + (1.0 if total else 0.0)
    return _ThresholdMap.apply(u, total, response)


class _ThresholdMap(torch.autograd.Function):
    @staticmethod
    def forward(u: torch.Tensor, total: int, response: Response) -> torch.Tensor:
        if isinstance(response, CategoricalResponse):
            return _fill(u, total)
        return solve_threshold(u, total, response)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.response = inputs[2]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return _apply_jacobian(ctx.response.slope(x), grad), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return _apply_jacobian(ctx.response.slope(x), tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, total: int, response: Response) -> tuple:
        return _ThresholdMap.apply(u.movedim(in_dims[0], 0), total, response), 0


def _apply_jacobian(w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mass = w.sum(-1, keepdim=True)
    mean = (w * v).sum(-1, keepdim=True) / torch.where(mass > 0, mass, 1.0)
    return w * (v - mean)


def solve_threshold(u: torch.Tensor, total: int, response: Response) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(*batch, n)`` and the root nu ``(*batch, 1)`` of sum_i g(u_i - nu) = total, for 0 < total < n."""
    low, high = _bracket(u, total, response)
    start = low if total == 1 and math.isfinite(response.reach) else 0.5 * low + 0.5 * high  # convex: from the left
    _, nu = _newton(u, total, response, low, high, start)
    # u - nu is exact where it matters, near the threshold: searching again in these coordinates removes the
    # rounding of nu itself (float32 at large utilities). As a rule the first evaluation ends it.
    room = 8 * torch.finfo(u.dtype).eps * (1 + nu.abs())
    x, correction = _newton(u - nu, total, response, -room, room, torch.zeros_like(nu))
    return x, nu + correction


def _newton(
    u: torch.Tensor, total: int, response: Response, low: torch.Tensor, high: torch.Tensor, nu: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton steps inside a shrinking bracket; halving where a step leaves it, and every other time when slow."""
    tolerance = 4 * torch.finfo(u.dtype).eps * total
    for step in range(_MAX_STEPS):
        x = response.value(u - nu)
        excess = x.sum(-1, keepdim=True) - total
        too_low = excess > 0
        low, high = torch.where(too_low, nu, low), torch.where(too_low, high, nu)
        middle = 0.5 * low + 0.5 * high  # their sum could overflow
        done = (excess.abs() <= tolerance) | (middle == low) | (middle == high)
        if bool(done.all()):
            break
        newton = nu + excess / response.slope(x).sum(-1, keepdim=True)
        inside = (newton > low) & (newton < high)
        if step > 10 and step % 2:
            inside = torch.zeros_like(inside)
        nu = torch.where(done, nu, torch.where(inside, newton, middle))
    return x, nu


def _bracket(u: torch.Tensor, total: int, response: Response) -> tuple[torch.Tensor, torch.Tensor]:
    if math.isfinite(response.reach):
        kth = (
            u.amax(-1, keepdim=True)
            if total == 1
            else u.topk(total, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        )
        return kth - response.reach, kth
    largest = u.topk(total + 1, dim=-1).values
    room = math.log(u.shape[-1])
    return largest[..., -1:] - room, largest[..., -2:-1] + room


def _fill(u: torch.Tensor, total: int) -> torch.Tensor:
    """Categorical case, in closed form once the entries at the cap are known: min(1, (total - c) softmax(rest)).

    Entries above the threshold of the others join the cap until none does; the threshold only falls, so this is
    exact after at most ``total`` rounds (two or three as a rule).
    """
    if total == 1:
        return u.softmax(-1)
    margin = 8 * torch.finfo(u.dtype).eps
    capped = torch.zeros_like(u, dtype=torch.bool)
    for _ in range(total):
        rest = u.masked_fill(capped, -math.inf)
        left = total - capped.sum(-1, keepdim=True)
        nu = rest.logsumexp(-1, keepdim=True) - left.to(u.dtype).log()
        over = (rest > nu + margin * nu.abs().clamp(min=1.0)) & (left > 1)
        if not bool(over.any()):
            break
        capped |= over
    rest = u.masked_fill(capped, -math.inf)
    left = (total - capped.sum(-1, keepdim=True)).to(u.dtype)
    return torch.where(capped, 1.0, (left * rest.softmax(-1)).clamp(max=1.0))
