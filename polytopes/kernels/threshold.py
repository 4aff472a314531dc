"""Separable soft argmax over { 0 <= x <= 1, sum x = total }: one dual variable, found by a batched threshold search.

With f(x) = sum phi(x_i), stationarity gives x_i = g(u_i - nu), where g is the inverse of phi' clipped to [0, 1], up to
a shift (``unit_inverse_slope``), and nu the root of the decreasing function sum_i g(u_i - nu) = total. By the implicit
function theorem

    dx/du = diag(w) - w w' / sum w,    w_i = g'(u_i - nu),

a symmetric matrix, so one formula serves as Jacobian-vector and vector-Jacobian product. w is a function of x
(``unit_inverse_curvature``): the backward needs nothing else, and autograd differentiates it again (double backward).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from polytopes.kernels.fixed_threshold import fixed_solve, fixed_threshold, kth_largest
from polytopes.kernels.threshold_by_row import threshold_map_by_row
from polytopes.kernels.threshold_rows import jacobian_by_rows, threshold_by_rows
from sst_cvx import native
from sst_cvx.autodiff import Function
from sst_cvx.host import stops_early
from sst_cvx.regularizers import BinaryEntropy, CategoricalEntropy, Euclidean, SeparableRegularizer, TsallisEntropy

_MAX_STEPS = 200
_SORTABLE = 100  # entries up to which sorting all beats partial sorts and Newton's steps
_LEADING = 64  # the largest of more entries, among which the support of a simplex's answer is as a rule


#: Regularizers whose ``unit_inverse_slope`` and ``unit_inverse_curvature`` the search runs on.
SEARCHABLE = (Euclidean, CategoricalEntropy, BinaryEntropy, TsallisEntropy)


def threshold_map(u: torch.Tensor, total: int, f: SeparableRegularizer) -> torch.Tensor:
    """argmax { <u, x> - f(x) : 0 <= x <= 1, sum x = total } over the last dimension, differentiable twice.

    Args:
        u: utilities divided by the temperature, ``(*batch, n)``.
        total: an integer, 0 <= total <= n.
    """
    if total == 0 or total == u.shape[-1]:  # one point only
        return u * 0 + (1.0 if total else 0.0)
    if isinstance(f, TsallisEntropy) and (f.is_tensor or not 1 < f.alpha <= 2):
        return threshold_map_by_row(u, total, f)
    return _ThresholdMap.apply(u, total, f)


def threshold_map_up_to(u: torch.Tensor, total: int | torch.Tensor, f: SeparableRegularizer) -> torch.Tensor:
    """argmax { <u, x> - f(x) : 0 <= x <= 1, sum x <= total }: the box's solution, or where that is too large, tight.

    The total may be a tensor ``(*batch, 1)``.
    """
    if isinstance(total, torch.Tensor):
        box = box_map(u, f)
        slack = box.detach().sum(-1, keepdim=True) <= total  # not where the total is NaN
        return torch.where(slack, box, threshold_map_by_row(u, total, f))
    other = isinstance(f, TsallisEntropy) and (f.is_tensor or not 1 < f.alpha <= 2)
    if native.serves(u) and not other:
        return _UpTo.apply(u, total, f)[0]
    box = box_map(u, f)
    tight = box.detach().sum(-1, keepdim=True) > total
    return torch.where(tight, threshold_map(u, total, f), box)


def box_map(u: torch.Tensor, f: SeparableRegularizer) -> torch.Tensor:
    """argmax { <u, x> - f(x) : 0 <= x <= 1 }."""
    if isinstance(f, TsallisEntropy) and (f.is_tensor or not 1 < f.alpha <= 2):
        return f.within_box(u)
    return f.unit_inverse_slope(u - f.slope_origin)


class _ThresholdMap(Function):
    @staticmethod
    def forward(u: torch.Tensor, total: int, f: SeparableRegularizer) -> torch.Tensor:
        if native.serves(u) and not (total == 1 and isinstance(f, CategoricalEntropy)):
            return threshold_by_rows(u, total, f)[0]
        fixed = not stops_early(u)
        if not torch.compiler.is_compiling():
            if isinstance(f, Euclidean) and total == 1:
                return _sparsemax(u)
            if isinstance(f, TsallisEntropy) and f.alpha == 1.5 and total == 1:
                return _entmax15(u)
            if isinstance(f, Euclidean) and not fixed and u.shape[-1] <= _SORTABLE:
                return _project_by_sorting(u, total)
        if fixed:
            return fixed_threshold(u, total, f)
        if isinstance(f, CategoricalEntropy):
            return _fill(u, total)
        return solve_threshold(u, total, f)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.f = inputs[2]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        if not torch.is_grad_enabled() and native.serves(grad) and native.serves(x):
            return jacobian_by_rows(x, grad, ctx.f), None, None
        return _apply_jacobian(ctx.f.unit_inverse_curvature(x), grad), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return _apply_jacobian(ctx.f.unit_inverse_curvature(x), tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, total: int, f: SeparableRegularizer) -> tuple:
        return _ThresholdMap.apply(u.movedim(in_dims[0], 0), total, f), 0


class _UpTo(Function):
    """Compiled only: x, and which rows are tight."""

    @staticmethod
    def forward(u: torch.Tensor, total: int, f: SeparableRegularizer) -> tuple[torch.Tensor, torch.Tensor]:
        return threshold_by_rows(u, total, f, up_to=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.f = inputs[2]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple:  # type: ignore[override]
        x, tight = ctx.saved_tensors
        if not torch.is_grad_enabled() and native.serves(grad) and native.serves(x):
            return jacobian_by_rows(x, grad, ctx.f, tight), None, None
        return _apply_jacobian(ctx.f.unit_inverse_curvature(x), grad, tight), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        x, tight = ctx.saved_tensors
        return _apply_jacobian(ctx.f.unit_inverse_curvature(x), tangent, tight), None


def _apply_jacobian(w: torch.Tensor, v: torch.Tensor, tight: torch.Tensor | None = None) -> torch.Tensor:
    mass = w.sum(-1, keepdim=True)
    mean = (w * v).sum(-1, keepdim=True) / mass.clamp(min=torch.finfo(mass.dtype).tiny)
    return w * (v - (mean if tight is None else mean * tight))


def solve_threshold(u: torch.Tensor, total: int, f: SeparableRegularizer) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(*batch, n)`` and the root nu ``(*batch, 1)`` of sum_i g(u_i - nu) = total, for 0 < total < n.

    Relative to the total-th largest entry, so that what all share costs no digits, and in float64: one fractional entry
    may have to bear the rounding of the whole sum.
    """
    if not stops_early(u):
        return fixed_solve(u, total, f)
    centre, low, high = _bracket(u, total, f)
    s = (u - centre).double()
    nu = low if total == 1 and math.isfinite(f.unit_slopes) else low.lerp(high, 0.5)  # from low, steps never overshoot
    if total > 1 and math.isfinite(f.unit_slopes):  # a vertex: no step gets there, and ties at 1 - eps seem to move
        nu = torch.where((s > low).sum(-1, keepdim=True) > total, nu, low)
    tolerance = max(4 * torch.finfo(torch.float64).eps * total, torch.finfo(u.dtype).eps / 8)
    x, nu = _newton(s, total, f, low, high, nu, tolerance)
    return x.to(u.dtype), nu.to(u.dtype) + centre


def _bracket(u: torch.Tensor, total: int, f: SeparableRegularizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The total-th largest entry, and bounds of nu relative to it, in float64, ``(*batch, 1)``.

    Where g rises from 0 to 1 within a finite length, this entry is neither 0 nor past 1 (which rounding must not keep
    it from). For the sigmoid, neither it nor the next one can be on the wrong side by more than log n.
    """
    if math.isfinite(f.unit_slopes):
        kth = kth_largest(u, total)
        high = torch.zeros_like(kth, dtype=torch.float64)
        return kth, high - f.unit_slopes * (1 + 2.0**-50), high
    largest, room = u.topk(total + 1, dim=-1).values, math.log(u.shape[-1])
    kth = largest[..., -2:-1]
    low = (largest[..., -1:] - kth).double().clamp(min=-1e30) - room  # finite, and anything will do in a gap that wide
    return kth, low, torch.full_like(low, room)


def _newton(
    s: torch.Tensor,
    total: int,
    f: SeparableRegularizer,
    low: torch.Tensor,
    high: torch.Tensor,
    nu: torch.Tensor,
    tolerance: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton steps inside a shrinking bracket; halving where a step leaves it, and every other time when slow.

    Ends where the excess of sum_i x_i is at most ``tolerance``. Returns x and nu.
    """
    for step in range(_MAX_STEPS):
        x = f.unit_inverse_slope(s - nu)
        excess = x.sum(-1, keepdim=True) - total
        done = excess.abs() <= tolerance
        if step > 20:  # the bracket may be as small as it gets
            done |= (nu == low) | (nu == high)
        if bool(done.all()):
            break
        too_low = excess > 0
        low, high = torch.where(too_low, nu, low), torch.where(too_low, high, nu)
        newton = nu + excess / f.unit_inverse_curvature(x).sum(-1, keepdim=True)
        inside = (newton > low) & (newton < high)
        if step > 10 and step % 2:
            inside = torch.zeros_like(inside)
        nu = torch.where(done, nu, torch.where(inside, newton, low.lerp(high, 0.5)))
    return x, nu


def _project_by_sorting(u: torch.Tensor, total: int) -> torch.Tensor:
    """The Euclidean case: the mass sum_i min(max(u_i - nu, 0), 1) is linear between sorted u_i and u_i - 1.

    Centred at the total-th largest entry, nu is in [-1, 0]: entries beyond 2 are 0 or 1, and cut off so that s - 1
    does not round. In float64, as one fractional entry may have to bear the rounding of the whole mass.
    """
    s = (u - kth_largest(u, total)).clamp(-2.0, 2.0).double()
    ends, order = torch.cat([s, s - 1.0], dim=-1).sort(dim=-1, descending=True)
    inside = (1.0 - 2.0 * (order >= u.shape[-1])).cumsum(-1, dtype=s.dtype)  # entries between 0 and 1 below an end
    mass = (inside[..., :-1] * (ends[..., :-1] - ends[..., 1:])).cumsum(-1)  # at the ends, but for the first: 0
    mass = torch.nn.functional.pad(mass, (1, 0))
    last = (mass < total).sum(-1, keepdim=True) - 1
    left = total - mass.gather(-1, last)
    nu = ends.gather(-1, last) - left / inside.gather(-1, last).clamp(min=1.0)
    return (s - nu).clamp(0.0, 1.0).to(u.dtype)


def _sparsemax(u: torch.Tensor) -> torch.Tensor:
    """Projection onto the simplex (Martins and Astudillo 2016, algorithm 1), centred at the largest entry."""
    s = (u - u.amax(-1, keepdim=True)).clamp(min=-2.0)  # no overflow: only entries down to -1 matter
    return (s - _among_the_largest(s, _sparsemax_threshold)).clamp(min=0.0)


def _sparsemax_threshold(ordered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    excess = ordered.cumsum(-1) - 1.0
    count = torch.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype, device=ordered.device)
    size = (ordered * count > excess).sum(-1, keepdim=True).clamp(min=1)  # of what is not finite, 0
    return excess.gather(-1, size - 1) / size, size


def _entmax15(u: torch.Tensor) -> torch.Tensor:
    """alpha = 1.5 on the simplex, x_i = max(z_i - tau, 0)^2 with z = u / 2 (Peters et al. 2019, algorithm 2)."""
    z = 0.5 * (u - u.amax(-1, keepdim=True)).clamp(min=-4.0)
    return (z - _among_the_largest(z, _entmax15_threshold)).clamp(min=0.0).square()


def _entmax15_threshold(ordered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    count = torch.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype, device=ordered.device)
    mean = ordered.cumsum(-1) / count
    spread = (ordered * ordered).cumsum(-1) - count * mean * mean
    tau = mean - ((1.0 - spread) / count).clamp(min=0.0).sqrt()
    size = (tau <= ordered).sum(-1, keepdim=True).clamp(min=1)
    return tau.gather(-1, size - 1), size


def _among_the_largest(
    s: torch.Tensor, threshold: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """``(*batch, 1)``: the threshold of sorted entries, which it gives with the size of their support. Of many entries,
    of the largest alone, and of all only in rows whose support reaches the last of these."""
    if s.shape[-1] <= _SORTABLE or not stops_early(s):
        return threshold(s.sort(dim=-1, descending=True).values)[0]
    tau, size = threshold(s.topk(min(_LEADING, s.shape[-1]), dim=-1).values)
    full = (size >= _LEADING)[..., 0]
    if bool(full.any()):
        tau[full] = threshold(s[full].sort(dim=-1, descending=True).values)[0]
    return tau


def _fill(u: torch.Tensor, total: int) -> torch.Tensor:
    """Categorical case, in closed form once the entries at the cap are known: min(1, (total - c) softmax(rest)).

    Entries above the threshold of the others join the cap until none does; the threshold only falls, so this is
    exact after at most ``total`` rounds (two or three as a rule). It ends between the total-th largest entry, relative
    to which all are taken, and log n above it.
    """
    if total == 1:
        return u.softmax(-1)
    weight = (u - kth_largest(u, total)).clamp(max=math.log(u.shape[-1]) + 1).exp()
    capped = torch.zeros_like(u, dtype=torch.bool)
    rest, left = weight, torch.full_like(u[..., :1], total)
    while True:
        share = rest / (rest.sum(-1, keepdim=True) / left)
        over = (share > 1 + 8 * torch.finfo(u.dtype).eps) & (left > 1)
        if not bool(over.any()):
            return torch.where(capped, 1.0, share.clamp(max=1.0))
        capped |= over
        rest, left = weight.masked_fill(capped, 0.0), total - capped.sum(-1, keepdim=True).to(u.dtype)
