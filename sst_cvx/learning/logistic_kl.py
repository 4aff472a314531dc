"""KL divergence of two logistic distributions: no closed form is known for unequal scales, so fixed quadratures.

With a = scale_p / scale_q, b = (loc_p - loc_q) / scale_q, z standard logistic with density f, and
g(y) = log(4 cosh^2(y / 2)) = -log f(y),

    KL(a, b) = h(a, b) - 2 - log a,    h(a, b) = E g(a z + b).

Equal scales: KL = b coth(b / 2) - 2, with dKL/da = b^2 / (4 sinh^2(b / 2)) - 1. Else, by sums of trapezoids with steps
for which the poles of the integrand, pi and pi / a off the real line, leave an error below 1e-16:

- near:  (a, b) is near (1, 0), where h - 2 - log a cancels: E (r - 1 - log r) with r = q / p, whose terms are positive.
- small: a <= 5/4, h by pairs of nodes, g(a z + b) + g(b - a z) = 2 log(2 cosh(a z) + 2 cosh b).
- large: h = a g(b / a) + E 2 log(1 + exp(-|a z + b|)), as E |z + c| = g(c), and the rest is smooth on each side of
  a z + b = 0: double-exponential nodes in y = |a z + b|.

Against quadrature in 30 digits, for a and b from 1e-9 to 1e9, and against asymptotes beyond (a from 5e-324 to 1e300),
the value is right to 1e-13 of itself, its derivatives by a and b to 1e-12 of themselves or of min(1, |a - 1| + |b|).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from sst_cvx.autodiff import Function
from sst_cvx.host import may_ask

_CHUNK = 2**18  # nodes times elements evaluated at once: what stays in a cache
_Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # a value, and its derivatives by a and b


def logistic_divergence(
    loc_p: torch.Tensor, scale_p: torch.Tensor, loc_q: torch.Tensor, scale_q: torch.Tensor
) -> torch.Tensor:
    """KL of Logistic(loc_p, scale_p) from Logistic(loc_q, scale_q), of the broadcast shape; twice differentiable in all
    four. Computed in float64. Infinite where a or b overflows."""
    dtype = torch.promote_types(torch.promote_types(loc_p.dtype, scale_p.dtype), scale_q.dtype)
    loc_p, scale_p, loc_q, scale_q = torch.broadcast_tensors(*(x.double() for x in (loc_p, scale_p, loc_q, scale_q)))
    a, b = scale_p / scale_q, (loc_p - loc_q) / scale_q
    excess = ((scale_p - scale_q) / scale_q).detach()  # a - 1, with all its digits
    finite = torch.isfinite(a) & torch.isfinite(b)
    a, b, excess = (torch.where(finite, x, other) for x, other in ((a, 1.0), (b, 0.0), (excess, 0.0)))
    value, has_log, *_ = _Divergence.apply(a, b, excess)
    logs = torch.where(has_log, torch.zeros_like(a), scale_p.log() - scale_q.log())
    return torch.where(finite, value - logs, torch.inf).to(dtype)


def excess_over_log(x: torch.Tensor, log: torch.Tensor) -> torch.Tensor:
    """r - 1 - log r for x = r - 1 and ``log`` = log r, no digit lost near 0: there log r = 2 atanh(x / (2 + x))."""
    near = x.abs() < 0.1
    x_near = torch.where(near, x, 0.0)
    s = x_near / (2 + x_near)
    square = s * s
    series = square / 13 + 1 / 11
    for k in (9, 7, 5, 3):
        series = series * square + 1 / k
    return torch.where(near, s * (x_near - 2 * square * series), x - log)


class _Divergence(Function):
    """KL where that is known at once (equal or near parameters: marked True), else h - 2; and as constants its
    derivatives by a and b: found with the value, without a graph, as nodes times elements would not fit in memory.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = a.reshape(-1), b.reshape(-1), excess.reshape(-1)
        regime = _regimes(*flat, closed=True)
        value, *slopes = (x.reshape(a.shape) for x in _by_regime(*flat, regime, _CHUNK))
        return value, (regime <= _NEAR).reshape(a.shape), *slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        a, b, excess, has_log, by_a, by_b = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # of the derivatives: by autograd of the sums
            flat = a.reshape(-1), b.reshape(-1), excess.reshape(-1)
            regime = _regimes(*flat, closed=False)
            _, by_a, by_b = (x.reshape(a.shape) for x in _by_regime(*flat, regime, 0))
            by_a = by_a - torch.where(has_log & (regime > _NEAR).reshape(a.shape), 1 / a, 0.0)
        return gradients[0] * by_a, gradients[0] * by_b, None


_EQUAL, _NEAR, _SMALL, _LARGE = range(4)


def _regimes(a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor, closed: bool) -> torch.Tensor:
    """Number of the formula for each element. ``closed``: equal scales by theirs, which is blind to curvature in a."""
    far = torch.where(a <= 1.25, _SMALL, _LARGE)
    regime = torch.where((excess.abs() <= 0.25) & (b.abs() <= 0.5), _NEAR, far)
    return torch.where(excess == 0, _EQUAL, regime) if closed else regime


def _by_regime(
    a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor, regime: torch.Tensor, chunk: int
) -> tuple[torch.Tensor, ...]:
    """Parts of flat elements, each by its formula; in one go if ``chunk`` is 0. Where the host must not be asked, all
    formulas are evaluated for all elements."""
    found = [torch.zeros_like(a) for _ in range(3)]
    for number, (formula, nodes) in enumerate(_FORMULAS):
        if not may_ask(a):
            chosen = regime == number
            safe = (torch.where(chosen, x, neutral) for x, neutral in ((a, 1.0), (b, 0.0), (excess, 0.0)))
            parts = formula(*safe, *(torch.from_numpy(x).to(a.device) for x in nodes))
            found = [torch.where(chosen, part, whole) for whole, part in zip(found, parts, strict=True)]
            continue
        chosen = torch.nonzero(regime == number).flatten()
        for which in chosen.split(max(1, chunk // len(nodes[0])) if chunk else max(1, len(chosen))):
            parts = formula(a[which], b[which], excess[which], *(torch.from_numpy(x).to(a.device) for x in nodes))
            found = [whole.index_copy(0, which, part) for whole, part in zip(found, parts, strict=True)]
    return tuple(found)


def _equal(a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor, coefficients: torch.Tensor) -> _Parts:
    """``coefficients`` of the series of b coth(b / 2) - 2 in b^2, where the two cancel."""
    near = b.abs() < 0.5
    square = torch.where(near, b, 0.0).square()
    series, slope = torch.zeros_like(b), torch.zeros_like(b)
    for k in range(len(coefficients), 0, -1):
        series, slope = (series + coefficients[k - 1]) * square, slope * square + 2 * k * coefficients[k - 1]
    far = torch.where(near, 1.0, b)
    half = torch.tanh(far / 2)
    e = torch.exp(-far.abs())
    by_b = 1 / half - 2 * far.clamp(-800, 800) * e / (1 - e).square()
    # b^2 / (4 sinh^2(b / 2)) - 1, by 1 / sinh^2 = coth^2 - 1 and the series of b coth(b / 2)
    by_a_near = series + series.square() / 4 - square / 4
    by_a_far = far.clamp(-800, 800).square() * e / (1 - e).square() - 1
    return (
        torch.where(near, series, far / half - 2),
        torch.where(near, by_a_near, by_a_far),
        torch.where(near, slope * b, by_b),
    )


def _near(a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor, z: torch.Tensor, weights: torch.Tensor) -> _Parts:
    """r = q / p is a / (1 + grown)^2 at z, with 1 + grown = cosh((z + d) / 2) / cosh(z / 2) and d = (a - 1) z + b."""
    a, b = a[:, None], b[:, None]
    excess = excess[:, None] + (a - a.detach())
    p = torch.sigmoid(z)
    up = torch.expm1(0.5 * (excess * z + b))
    down = -up / (1 + up)
    grown = p * up + (1 - p) * down
    scale = 1 / (1 + grown)
    x = (excess - grown * (2 + grown)) * scale * scale  # r - 1
    weight = weights * x
    slope = (2 * p - 1 + p * up - (1 - p) * down) * scale  # tanh((z + d) / 2)
    return (
        (weights * excess_over_log(x, torch.log1p(excess) - 2 * torch.log1p(grown))).sum(1),
        weight.sum(1) / a[:, 0] - (weight * z * slope).sum(1),
        -(weight * slope).sum(1),
    )


def _small(a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor, z: torch.Tensor, weights: torch.Tensor) -> _Parts:
    """Over z >= 0, two nodes in one; (cosh, sinh) of a z and b relative to the larger exponential."""
    y, size = a[:, None] * z, b.abs()[:, None]
    low, high = torch.exp(-(y - size).abs()), torch.exp(-(y + size))
    total = (1 + low) * (1 + high)  # 2 (cosh y + cosh b) / exp(max(y, |b|))
    value = torch.maximum(y, size) + torch.log(total)
    # sinh / (cosh y + cosh b), by the halves of the sum and the difference
    plus, minus = torch.tanh((y + size) / 2), torch.tanh((y - size) / 2)
    by_a = (weights * z * (plus + minus)).sum(1)
    # 2 sinh b / (cosh y + cosh b) = 2 cosh b tanh b / (...)
    cosh = torch.exp(size - torch.maximum(y, size)) * (1 + torch.exp(-2 * size))
    by_b = (weights * cosh / total).sum(1) * 2 * torch.tanh(b)
    return (2 * weights * value).sum(1) - 2, by_a, by_b


def _large(a: torch.Tensor, b: torch.Tensor, excess: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> _Parts:
    c = b / a
    e = torch.exp(-c.abs())
    soft = 2 * torch.log1p(e)
    a, b = a[:, None], b[:, None]
    sides = [(sign * y - b) / a for sign in (1, -1)]  # z at a z + b = y and -y
    density = [weights * _density(z) / a for z in sides]
    slopes = [w * torch.tanh(z / 2) for w, z in zip(density, sides, strict=True)]  # -f'
    rest = (density[0] + density[1]).sum(1)
    by_a = (sides[0] * slopes[0] - density[0] + sides[1] * slopes[1] - density[1]) / a
    by_b = (slopes[0] + slopes[1]) / a
    value = a[:, 0] * soft + b[:, 0].abs() + rest - 2
    return value, soft + 2 * c.abs() * e / (1 + e) + by_a.sum(1), torch.tanh(c / 2) + by_b.sum(1)


def _density(z: torch.Tensor) -> torch.Tensor:
    e = torch.exp(-z.abs())
    return e / (1 + e).square()


def _trapezoids(step: float, end: float, one_sided: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and the weights of E under the logistic density; one-sided, z = 0 counts half, for pairs."""
    count = round(end / step)
    z = step * np.arange(0 if one_sided else -count, count + 1)
    e = np.exp(-np.abs(z))
    weights = step * e / (1 + e) ** 2
    if one_sided:
        weights[0] /= 2
    return z, weights


def _double_exponential(step: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes y = exp(s - exp(-s)), and weights of integrals over y > 0 with 2 log(1 + exp(-y)) in them."""
    s = np.arange(low, high, step)
    y = np.exp(s - np.exp(-s))
    return y, step * y * (1 + np.exp(-s)) * 2 * np.log1p(np.exp(-y))


def _coth_series(count: int) -> np.ndarray:
    """b coth(b / 2) - 2 = sum_k 2 B_2k / (2k)! b^2k, with Bernoulli's numbers B."""
    B = [Fraction(1)]
    for m in range(1, 2 * count + 1):
        B.append(-sum((math.comb(m + 1, j) * B[j] for j in range(m)), Fraction(0)) / (m + 1))
    return np.array([float(2 * B[2 * k] / math.factorial(2 * k)) for k in range(1, count + 1)])


_Formula = Callable[..., _Parts]
_FORMULAS: tuple[tuple[_Formula, tuple[np.ndarray, ...]], ...] = (
    (_equal, (_coth_series(10),)),
    (_near, _trapezoids(0.4, 52)),
    (_small, _trapezoids(0.4, 42, one_sided=True)),
    (_large, _double_exponential(0.07, -4.2, 3.75)),
)
