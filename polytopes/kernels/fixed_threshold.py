"""The threshold search of ``threshold`` where the host must not be asked: what suffices for any input, counted before.

With s = u - (total-th largest entry) in float64 and x_i = g(s_i - nu) as there, three ways to the root of
sum_i x_i = total, all of a fixed number of operations:

- by sorting, for the Euclidean regularizer and Tsallis entropies of alpha = 1.5 and 2, where the sum is a polynomial
  between sorted kinks, and for the categorical one, whose entries at the cap are the largest;
- by halving, for what rises from 0 to 1 within a finite length, the bracket of nu. A compiler fuses these steps into
  passes over a row in cache, so that they take the place of sorting there;
- by halving and Newton's steps for sigmoids. The bracket is not wider than 2 log n (``_sigmoid_bracket``). F(nu) =
  sum_i sigmoid(s_i - nu) has |F''| <= |F'|, so a Newton step takes an error e to at most e^2 / 2 exp(e): from 1/4 to
  0.04, 8.4e-4, 3.6e-7, 6.5e-14, 3e-27, by four or five steps.
"""

from __future__ import annotations

import math

import torch

from sst_cvx.regularizers import BinaryEntropy, CategoricalEntropy, Euclidean, SeparableRegularizer, TsallisEntropy


def fixed_threshold(u: torch.Tensor, total: int, f: SeparableRegularizer) -> torch.Tensor:
    """x ``(*batch, n)``, of the dtype of u, for 0 < total < n."""
    if isinstance(f, CategoricalEntropy):
        return u.softmax(-1) if total == 1 else _fill(u, total)
    if not torch.compiler.is_compiling():
        power = 1 if isinstance(f, Euclidean) else round(1 / (f.alpha - 1), 12) if isinstance(f, TsallisEntropy) else 0
        if power in (1, 2):
            return _by_sorting(u, total, int(power), f.unit_slopes)
    return fixed_solve(u, total, f)[0]


def fixed_solve(u: torch.Tensor, total: int, f: SeparableRegularizer) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(*batch, n)`` and the root nu ``(*batch, 1)``, as ``solve_threshold``."""
    if isinstance(f, BinaryEntropy):
        centre, low, width = _sigmoid_bracket(u, total)
        halvings = max(0, math.ceil(math.log2(4 * math.log(u.shape[-1]))))
        newtons = 4 if u.dtype == torch.float32 else 5
    else:
        centre = kth_largest(u, total)
        low, width = torch.zeros_like(centre, dtype=torch.float64) - f.unit_slopes, f.unit_slopes
        tolerance = 1e-12 if u.dtype == torch.float64 else 2.0**-26  # of every x_i, which follow nu at most one to one
        halvings, newtons = math.ceil(math.log2(f.unit_slopes / tolerance)), 2  # Newton's: for the sum
    s = (u - centre).double()
    for _ in range(halvings):
        width = width / 2
        low = low + width * (f.unit_inverse_slope(s - (low + width)).sum(-1, keepdim=True) > total)
    high, nu = low + width, low + width / 2
    for _ in range(newtons):
        x = f.unit_inverse_slope(s - nu)
        slope = f.unit_inverse_curvature(x).sum(-1, keepdim=True).clamp(min=1e-300)
        nu = (nu + (x.sum(-1, keepdim=True) - total) / slope).clamp(low, high)
    x = f.unit_inverse_slope(s - nu)
    return x.to(u.dtype), nu.to(u.dtype) + centre


def _sigmoid_bracket(u: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The total-th largest entry; relative to it, in float64, the lower end of a bracket of nu, and its width.

    Let s_1 >= ... >= s_n, s_k = 0 for k = total, and gap = -s_(k+1). At the root A = sum_{i <= k} sigmoid(nu - s_i) is
    equal to B = sum_{i > k} sigmoid(s_i - nu), and as min(exp(y), 1) / 2 <= sigmoid(y) <= exp(y),

        min(exp(nu), 1) / 2 <= A = B <= (n - k) exp(-gap - nu),    min(exp(-gap - nu), 1) / 2 <= B = A <= k exp(nu):

    nu <= max((L - gap) / 2, L - gap) with L = log 2 (n - k), nu >= min(-(gap + K) / 2, -K) with K = log 2 k, and the
    difference is at most (L + K) / 2 for wide gaps, L + K - gap for narrow ones, and L + K <= 2 log n.
    """
    largest = u.topk(total + 1, dim=-1).values
    kth = largest[..., -2:-1]
    gap = (kth - largest[..., -1:]).double()
    above, below = math.log(2 * (u.shape[-1] - total)), math.log(2 * total)
    high = torch.maximum((above - gap) / 2, above - gap)
    low = torch.minimum(-(gap + below) / 2, torch.full_like(gap, -below))
    return kth, low, high - low


def kth_largest(u: torch.Tensor, k: int) -> torch.Tensor:
    """``(*batch, 1)``."""
    return u.amax(-1, keepdim=True) if k == 1 else u.topk(k, dim=-1).values[..., -1:]


def _fill(u: torch.Tensor, total: int) -> torch.Tensor:
    """Categorical case: min(1, (total - c) softmax(rest)), where c is the number of entries at the cap.

    These are the largest, and c the first for which the next entry stays below: once one does, all later ones do. The
    threshold is between the total-th largest entry, relative to which all are taken, and log n above it.
    """
    largest = u.topk(total, dim=-1).values
    kth, top = largest[..., -1:], math.log(u.shape[-1]) + 1
    weight, leading = (u - kth).clamp(max=top).exp(), (largest - kth).clamp(max=top).exp()
    beyond = torch.where(u < kth, weight, 0.0).sum(-1, keepdim=True)  # no difference of larger sums
    tied = (u == kth).sum(-1, keepdim=True) - (largest == kth).sum(-1, keepdim=True)  # and not taken by topk
    rest = beyond + tied + leading.flip(-1).cumsum(-1).flip(-1)  # with c at the cap, for c = 0, ..., total - 1
    left = total - torch.arange(total, dtype=u.dtype, device=u.device)
    capped = (leading * left > rest * (1 + 8 * torch.finfo(u.dtype).eps)).sum(-1, keepdim=True).clamp(max=total - 1)
    return (weight * ((total - capped) / rest.gather(-1, capped))).clamp(max=1.0)


def _by_sorting(u: torch.Tensor, total: int, power: int, unit_slopes: float) -> torch.Tensor:
    """x_i = min(max(z_i - tau, 0), 1)^power with z = u / unit_slopes, for powers 1 and 2.

    The sum is found at all kinks z_i and z_i - 1 from their number, sum and sum of squares of the z in between; then,
    from the last kink before the root on, once more without cancellation, as a polynomial in the way that is left.
    """
    z = ((u - kth_largest(u, total)).double() / unit_slopes).clamp(-2.0, 2.0)  # tau is in [-1, 0]
    n = u.shape[-1]
    kinks, order = torch.cat([z, z - 1.0], dim=-1).sort(dim=-1, descending=True)
    leaves = (order >= n).to(z.dtype)
    sign, at = 1.0 - 2.0 * leaves, kinks + leaves
    terms = [leaves, sign, sign * at, sign * at * at]
    ones, inside, sums, *squares = torch.stack(terms[: power + 2]).cumsum(-1)
    mass = ones + sums - inside * kinks
    if power == 2:
        mass = ones + squares[0] - kinks * (2.0 * sums - inside * kinks)
    last = ((mass < total).sum(-1, keepdim=True) - 1).clamp(min=0)  # the first mass is 0
    way = z - kinks.gather(-1, last)
    within = torch.where((way >= 0) & (way < 1), way, 0.0)
    count = ((way >= 0) & (way < 1)).sum(-1, keepdim=True)
    left, first = total - (way >= 1).sum(-1, keepdim=True), within.sum(-1, keepdim=True)
    if power == 1:
        step = (left - first) / count.clamp(min=1)
    else:
        left = (left - within.square().sum(-1, keepdim=True)).clamp(min=0.0)
        step = left / (first + (first * first + count * left).sqrt()).clamp(min=1e-300)
    x = (way + step).clamp(0.0, 1.0)
    return (x if power == 1 else x * x).to(u.dtype)
