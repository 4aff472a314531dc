"""Threshold maps with numbers of each row: Tsallis entropies of any alpha > 0, and totals that need not be integers.

With q = alpha - 1, s_i = u_i - (the k-th largest), k = ceil(total), and G(d) = min(max(1 + q d, 0), 1)^(1/q),

    x_i = G(s_i - nu),    0 <= nu <= (1 - r^q) / q,    r = (total - k + 1) / (n - k + 1)

(``native.threshold`` says why). For q > 1 the slope of G is infinite at its lower end; there, with the least entry
x_j = y above 0, x_i = min(q (s_i - s_j) + y^q, 1)^(1/q), as well known as y. Where the sum is the total,

    dx/du = diag(w) - w w' / sum w,    dx/dtotal = w / sum w,    dx/dalpha = h - w sum h / sum w,
    h_i = -x_i (exp(-q L) - 1 + q L) / q^2,  L = log x_i,  and -x_i L^2 / 2 for q = 0,

h_i the derivative of G at a fixed threshold, up to a multiple of w_i. At a vertex, w = 0, the total's derivative jumps
from the last entry that is in to the first that is out: it is half of each.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from polytopes.kernels.threshold_rows import threshold_by_rows
from sst_cvx import native
from sst_cvx.autodiff import Function
from sst_cvx.regularizers import BinaryEntropy, CategoricalEntropy, Euclidean, SeparableRegularizer, TsallisEntropy
from sst_cvx.regularizers.tsallis import deformed_exponential

_ACCURACY = 1e-13  # of nu, which entries follow at most one to one


def threshold_map_by_row(u: torch.Tensor, total: Any, f: SeparableRegularizer) -> torch.Tensor:
    """``threshold_map`` for any f of ``SEARCHABLE``, differentiable in u, the total and alpha.

    Args:
        u: utilities divided by the temperature, ``(*batch, n)``.
        total: a number, or one a row, ``(*batch, 1)``, of the dtype of u; 0 <= total <= n.
    """
    alpha = f.alpha_of(u) if isinstance(f, TsallisEntropy) else 2.0
    column = u[..., :1]
    total, alpha = (
        (torch.as_tensor(v, dtype=u.dtype, device=u.device) if not isinstance(v, torch.Tensor) else v).expand_as(column)
        for v in (total, alpha)
    )
    return _ByRow.apply(u, total, alpha, f)


class _ByRow(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: torch.Tensor, total: torch.Tensor, alpha: torch.Tensor, f: SeparableRegularizer) -> torch.Tensor:
        if native.serves(u):
            return threshold_by_rows(u, total, f, alpha=alpha)[0]
        return solve_by_row(u, total, alpha, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        u, _, alpha, ctx.f = inputs
        ctx.save_for_backward(u, alpha, output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        u, alpha, x = ctx.saved_tensors
        w = _slopes(x, alpha, ctx.f)
        mass = w.sum(-1, keepdim=True)
        largest = w.argmax(-1, keepdim=True)  # may be far above the others, alpha > 2
        shift = grad.gather(-1, largest)
        v = grad - shift
        mean = (w * v).sum(-1, keepdim=True) / mass.clamp(min=torch.finfo(mass.dtype).tiny)
        for_total = for_alpha = None
        if ctx.needs_input_grad[1]:
            jump = (grad * _edges(u, x)).sum(-1, keepdim=True)
            for_total = torch.where(mass > 0, mean + shift, jump)
        if ctx.needs_input_grad[2]:
            for_alpha = (_by_alpha(x, alpha) * (v - mean)).sum(-1, keepdim=True)
        return w * (v - mean), for_total, for_alpha, None


def _slopes(x: torch.Tensor, alpha: torch.Tensor, f: SeparableRegularizer) -> torch.Tensor:
    if not isinstance(f, TsallisEntropy):
        return f.unit_inverse_curvature(x)
    inside = (x > 0) & (x < 1)
    most = 1e100 if x.dtype == torch.float64 else 1e15
    return torch.where(inside, x, 1.0).pow(2 - alpha).clamp(max=most) * inside


def _edges(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """At vertices, the mean of e_i, i the least utility that is in, and e_j, j the largest that is out; or the only."""
    inside = x > 0.5
    least = torch.where(inside, u, math.inf).argmin(-1, keepdim=True)
    largest = torch.where(inside, -math.inf, u).argmax(-1, keepdim=True)
    some, others = (part.any(-1, keepdim=True).to(x.dtype) for part in (inside, ~inside))
    return torch.zeros_like(u).scatter_add(-1, least, some).scatter_add(-1, largest, others) / (some + others)


def _by_alpha(x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """h."""
    inside = (x > 0) & (x < 1)
    log = torch.where(inside, x, 0.5).log()
    y = (alpha - 1) * log
    near = y.abs() < 1e-3
    small, far = torch.where(near, y, 0.0), torch.where(near, 1.0, y)
    series = 1 / 2 - small * (1 / 6 - small * (1 / 24 - small * (1 / 120 - small / 720)))
    return -x * inside * log.square() * torch.where(near, series, ((-far).expm1() + far) / far.square())


def solve_by_row(u: torch.Tensor, total: torch.Tensor, alpha: torch.Tensor, f: SeparableRegularizer) -> torch.Tensor:
    """x, in tensors alone and a counted number of steps, for totals and alphas ``(*batch, 1)``."""
    n, wide, q = u.shape[-1], total.double(), alpha.double() - 1
    k = wide.nan_to_num(1.0).ceil().clamp(1, n)  # what is no size is NaN, and no index
    ordered = u.sort(-1, descending=True).values
    centre = ordered.gather(-1, k.long() - 1)
    s, room = (u - centre).double(), (wide - k + 1) / (n - k + 1)
    room = room.clamp(min=1e-300)
    if isinstance(f, BinaryEntropy):
        following = (ordered.gather(-1, k.long().clamp(max=n - 1)) - centre).double()
        low, high = torch.minimum(following.clamp(min=-1e4), -(2 * k).log()), -room.log()
        most = 1e4 + 60

        def g(d: torch.Tensor) -> torch.Tensor:
            return d.sigmoid()

    else:
        if isinstance(f, CategoricalEntropy):
            q = torch.zeros_like(q)
        elif isinstance(f, Euclidean):
            q = torch.ones_like(q)
        near = q.abs() < 1e-9
        high = torch.where(near, -room.log(), -(q * room.log()).expm1() / torch.where(near, 1.0, q))
        low, most = torch.zeros_like(high), float(n) + 700

        def g(d: torch.Tensor) -> torch.Tensor:
            return deformed_exponential(d, q)

    vertex = g(s)
    for _ in range(math.ceil(math.log2(most / _ACCURACY))):
        middle = 0.5 * (low + high)
        over = g(s - middle).sum(-1, keepdim=True) > wide
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    x = g(s - high)
    if not isinstance(f, BinaryEntropy):
        x = torch.where(vertex.sum(-1, keepdim=True) <= wide, vertex, x)
    if isinstance(f, TsallisEntropy):
        x = torch.where(q > 1, _steep(s, wide, q.clamp(min=1.0)), x)
    x = torch.where(wide <= 0, 0.0, torch.where(wide >= n, 1.0, x))
    return torch.where(wide.isnan() | q.isnan(), math.nan, x).to(u.dtype)


def _steep(s: torch.Tensor, total: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """q > 1: by halving, the last of the sorted entries below which the mass is not reached, and then y."""
    n, ordered = s.shape[-1], s.sort(-1, descending=True).values

    def mass(least: torch.Tensor, power: torch.Tensor | float) -> torch.Tensor:
        return _from_least(s, least, power, q).sum(-1, keepdim=True)

    first, last = torch.zeros_like(total, dtype=torch.long), torch.full_like(total, n, dtype=torch.long)
    for _ in range(n.bit_length()):
        middle = (first + last) // 2
        under = (mass(ordered.gather(-1, middle.clamp(max=n - 1)), 0.0) < total) & (middle > first)
        moves = middle > first
        first, last = torch.where(under, middle, first), torch.where(moves & ~under, middle, last)
    least = ordered.gather(-1, first)
    gap = least - ordered.gather(-1, last.clamp(max=n - 1))
    low = torch.zeros_like(total)
    high = torch.where(last < n, (q * gap).clamp(max=1.0).pow(1 / q), 1.0)
    for _ in range(56):
        middle = 0.5 * (low + high)
        over = mass(least, middle.pow(q)) > total
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return _from_least(s, least, high.pow(q), q)


def _from_least(s: torch.Tensor, least: torch.Tensor, power: torch.Tensor | float, q: torch.Tensor) -> torch.Tensor:
    c = q * (s - least)
    return torch.where(c >= 0, (c + power).clamp(0.0, 1.0).pow(1 / q), 0.0)
