"""Isotonic regression, batched, and with it separable soft argmaxes over the permutahedron.

Over the hull of the permutations of w, sorted w_1 >= ... >= w_n, and utilities sorted z_1 >= ... >= z_n, stationarity
gives x_i = (phi')^-1 (z_i - v_i), where v is constant on blocks of consecutive places, decreases from block to block,
and sum x = sum w on each block. So the value of a block B, wherever it begins and ends, is a mean, total / mass:

    Euclidean    sum_B (z_i - w_i) / |B|                  Categorical    sum_B exp z_i / sum_B w_i, in logarithms,

and v the isotonic regression of the places' own values. Blondel, Teboul, Berthet, Djolonga, "Fast Differentiable
Sorting and Ranking" (ICML 2020), propositions 3 and 4.

Blocks are found by merging halves. Two solved halves violate the order only where they meet, and one new block repairs
it: the end of the left half below its value c, the beginning of the right one above. log2(n) merges, each of them a few
operations on all halves and all elements of the batch. On the CPU, pool-adjacent-violators, which needs a loop over the
batch, finds the same blocks sooner (Best, Chakravarti 1990): compiled (``native/isotonic.py``), or SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from sst_cvx import native
from sst_cvx.autodiff import Function
from sst_cvx.host import stops_early

_ROWS_BY_SCIPY = 32  # a merge at most, of short rows: each costs a call
_LONG = 64  # rows of so many are always faster so


class Mean(NamedTuple):
    """A weighted mean, of numbers and masses that may be given by their logarithms."""

    cumulate: Callable[[torch.Tensor], torch.Tensor]  # prefix sums along the last dimension
    add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    divide: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    zero: float


PLAIN = Mean(lambda s: s.cumsum(-1), torch.add, torch.div, torch.mul, 0.0)
LOGARITHMS = Mean(lambda s: s.logcumsumexp(-1), torch.logaddexp, torch.sub, torch.add, -torch.inf)


def project_on_permutations(z: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """argmax { <z, x> - 1/2 |x|^2 } over the hull of the permutations of ``weights``, ``(*batch, n)`` like ``z``.

    ``weights`` ``(n,)`` from the largest. Inside, float64. Differentiable any number of times: over each block, z minus
    its mean, plus that of the weights.
    """
    if native.serves(z):
        return _Ranked.apply(z, weights, None)[0]
    z, order = z.sort(dim=-1, descending=True)
    ordered, w = z.double(), weights.to(z.device, torch.float64)
    x = project_sorted(ordered, w)
    return torch.zeros_like(x).scatter(-1, order, x).to(z.dtype)


def project_sorted(z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The same where z ``(*batch, n)`` and the weights, ``(n,)`` or ``(*batch, n)``, are in order already, from the
    largest, and of float64; differentiable in both."""
    blocks = _Blocks(joined_to_last(z.detach() - w.detach(), z.new_ones(z.shape[-1]), PLAIN))
    d = z - blocks.first(z)  # exact differences: items alone in their block are exactly at a weight
    return d + blocks.sum(w - d) / blocks.sum(torch.ones_like(d))


def entropic_on_permutations(z: torch.Tensor, weights: torch.Tensor, positive: int) -> torch.Tensor:
    """argmax { <z, x> - sum x log x } over the same hull, of nonnegative ``weights``: a softmax over each block.

    ``positive``: how many weights are.
    """
    positive = max(positive, 1)  # places of weight 0 are in the block of the last one that has some
    if native.serves(z):
        return _Ranked.apply(z, weights, positive)[0]
    z, order = z.sort(dim=-1, descending=True)
    ordered, w = z.double(), weights.to(z.device, torch.float64)
    lone, last = ordered.detach().tensor_split([positive - 1], -1)
    mass = w[:positive].log().clamp(min=-1e3)  # if there is none, any
    joined = joined_to_last(torch.cat([lone, last.logsumexp(-1, keepdim=True)], -1) - mass, mass, LOGARITHMS)
    blocks = _Blocks(torch.nn.functional.pad(joined, (0, len(w) - positive), value=True))
    e = (ordered - blocks.first(ordered)).exp()
    x = e / blocks.sum(e) * blocks.sum(w.expand_as(e))
    return torch.zeros_like(x).scatter(-1, order, x).to(z.dtype)


class _Ranked(Function):
    """The same, compiled; and the places from the smallest to the largest, and which are in the block of the one before
    them, from the largest: constants outside."""

    @staticmethod
    def forward(z: torch.Tensor, weights: torch.Tensor, positive: int | None) -> tuple[torch.Tensor, ...]:
        from polytopes.kernels.native import isotonic

        flat, w = native.array(z).reshape(-1, z.shape[-1]), native.array(weights.to(torch.float64))
        x, joined = np.empty_like(flat), np.empty(flat.shape, bool)
        order = np.argsort(flat, -1)  # several times faster than torch's
        if positive is None:
            isotonic.project(flat, order, w, x, joined)
        else:
            isotonic.entropic(flat, order, w, positive, x, joined)
        return tuple(torch.from_numpy(part).view(z.shape) for part in (x, order, joined))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output[1:])
        kept = output[1:] if inputs[2] is None else (*output[1:], output[0])
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        return _jacobian_times(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        return _jacobian_times(tangent, *ctx.saved_tensors), None, None


def _jacobian_times(
    v: torch.Tensor, order: torch.Tensor, joined: torch.Tensor, x: torch.Tensor | None = None
) -> torch.Tensor:
    """Over each block, v less its mean; where x is given, x times v less its mean by x. A symmetric Jacobian."""
    again = torch.is_grad_enabled() and (v.requires_grad or (x is not None and x.requires_grad))
    if native.serves(v) and not again:
        from polytopes.kernels.native import isotonic

        rows = [native.array(part).reshape(-1, v.shape[-1]) for part in (v, order, joined, v if x is None else x)]
        g = np.empty_like(rows[0])
        isotonic.pull(*rows, x is not None, g)
        return torch.from_numpy(g).view(v.shape)
    order, blocks = order.flip(-1), _Blocks(joined)
    wide = v.double().gather(-1, order)
    if x is None:
        g = wide - blocks.sum(wide) / blocks.sum(torch.ones_like(wide))
    else:
        weight = x.double().gather(-1, order)
        mass = blocks.sum(weight)
        g = weight * (wide - blocks.sum(weight * wide) / torch.where(mass > 0, mass, 1.0))
    return torch.zeros_like(g).scatter(-1, order, g).to(v.dtype)


class _Blocks:
    """Sums over blocks of places, given back to each place, ``(*batch, n)``."""

    def __init__(self, joined: torch.Tensor):
        self._joined, self._number = joined, (~joined).cumsum(-1) - 1

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Differentiable."""
        return torch.zeros_like(x).scatter_add(-1, self._number, x).gather(-1, self._number)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """What is at the first place of each block, as a constant."""
        return self.sum(x.detach().masked_fill(self._joined, 0.0))


@torch.no_grad()
def joined_to_last(y: torch.Tensor, mass: torch.Tensor, mean: Mean) -> torch.Tensor:
    """Which places are in the block of the place before them, in the isotonic (nonincreasing) regression.

    Of values ``(*batch, n)`` with masses ``(n,)``, by blocks that have the weighted mean; bool ``(*batch, n)``. Only
    violators are joined: equal neighbours that need no other value are blocks of their own, which do not move together.
    """
    if mean is PLAIN and native.serves(y):
        return _joined_by_compiled(y)
    if mean is PLAIN and _suits_scipy(y):
        return _joined_by_scipy(y)
    return _joined_by_merges(y, mass, mean)


def _joined_by_merges(y: torch.Tensor, mass: torch.Tensor, mean: Mean) -> torch.Tensor:
    n = y.shape[-1]
    width = 1 << (n - 1).bit_length()
    pad = torch.nn.functional.pad
    value = pad(y.reshape(-1, n), (0, width - n), value=-torch.inf)  # what is appended is below everything
    mass, size = pad(mass, (0, width - n), value=1.0), 1
    joined, merge = torch.zeros_like(value, dtype=torch.bool), _merge_violators if stops_early(y) else _merge_all
    while size < width:
        size *= 2
        value, joined = merge(value, joined, mass, size, mean)
    return joined[:, :n].reshape(y.shape)


def _suits_scipy(y: torch.Tensor) -> bool:
    """Whether a call of SciPy's a row is possible, and faster than some 50 operations a merge."""
    n = y.shape[-1]
    return native.is_plain(y) and (n >= _LONG or y.numel() <= _ROWS_BY_SCIPY * n * (n - 1).bit_length())


def _joined_by_scipy(y: torch.Tensor) -> torch.Tensor:
    """Row by row. SciPy joins equal neighbours too, so rows are merged where parts of a block have its value."""
    from scipy.optimize import isotonic_regression

    rows = native.array(y).reshape(-1, y.shape[-1])
    value, joined = np.empty_like(rows), np.ones(rows.shape, bool)
    for row, found, mark in zip(rows, value, joined, strict=True):
        solution = isotonic_regression(row, increasing=False)
        found[:], mark[solution.blocks[:-1]] = solution.x, False
    before = np.abs(np.cumsum(rows - value, -1))[:, :-1]  # 0 at the end of a part
    rounding = 4 * np.finfo(rows.dtype).eps * rows.shape[-1] * np.abs(rows).max(-1, keepdims=True)
    doubtful = np.flatnonzero((joined[:, 1:] & (before <= rounding)).any(-1))
    if doubtful.size:
        again = torch.from_numpy(rows[doubtful])
        joined[doubtful] = _joined_by_merges(again, torch.ones_like(again[0]), PLAIN).numpy()
    return torch.from_numpy(joined).view(y.shape)


def _joined_by_compiled(y: torch.Tensor) -> torch.Tensor:
    from polytopes.kernels.native import isotonic

    rows = native.array(y).reshape(-1, y.shape[-1])
    joined = np.empty(rows.shape, bool)
    isotonic.join(rows, joined)
    return torch.from_numpy(joined).view(y.shape)


def _merge_violators(
    value: torch.Tensor, joined: torch.Tensor, mass: torch.Tensor, size: int, mean: Mean
) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs of halves, of ``size`` together, in place; those that are in order are left alone."""
    ends, width = value.view(-1, 2, size // 2), value.shape[-1]
    wrong = torch.nonzero(ends[:, 0, -1] < ends[:, 1, 0]).flatten()
    if wrong.numel():
        v = value.view(-1, size).index_select(0, wrong)
        merged, pooled = _merge(v, mass.view(-1, size).index_select(0, wrong % (width // size)), mean)
        value.view(-1, size).index_copy_(0, wrong, merged)
        joined.view(-1, size)[wrong, 1:] |= pooled[:, 1:] & pooled[:, :-1]
    return value, joined


def _merge_all(
    value: torch.Tensor, joined: torch.Tensor, mass: torch.Tensor, size: int, mean: Mean
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where the host is not asked which halves are out of order: all are merged."""
    v, width = value.reshape(-1, size), value.shape[-1]
    wrong = (v[:, size // 2 - 1] < v[:, size // 2])[:, None]
    masses = mass.view(1, -1, size).expand(len(value), -1, -1).reshape(-1, size)
    merged, pooled = _merge(v, masses, mean)
    together = torch.nn.functional.pad(pooled[:, 1:] & pooled[:, :-1] & wrong, (1, 0))
    return torch.where(wrong, merged, v).view(-1, width), joined | together.view(-1, width)


def _merge(value: torch.Tensor, mass: torch.Tensor, mean: Mean) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of halves ``(pairs, 2 size)`` that violate the order: the solution, and who is in the new block."""
    up, right = value.unflatten(1, (2, -1)).unbind(1)
    left_mass, right_mass = mass.unflatten(1, (2, -1)).unbind(1)
    up, left_mass = up.flip(1), left_mass.flip(1)  # not decreasing: what is below any level comes first
    # Totals and masses of the last i items of the left half, and of the first i of the right one, i = 0, ..., size.
    below = [_sums(v, mean) for v in (mean.multiply(up, left_mass), left_mass)]
    above = [_sums(v, mean) for v in (mean.multiply(right, right_mass), right_mass)]

    def level(of_left: list[torch.Tensor], of_right: list[torch.Tensor]) -> torch.Tensor:
        return mean.divide(*(mean.add(x, y) for x, y in zip(of_left, of_right, strict=True)))

    # On the left, who is less than the mean of those further down and of those on the right that are larger than it.
    larger = torch.searchsorted(-right, -up)
    lifted = up < level([b[:, :-1] for b in below], [a.gather(1, larger) for a in above])
    tail = lifted.sum(1, keepdim=True).clamp(min=1)  # rounding must not leave a violation
    rest = [b.gather(1, tail) for b in below]
    # On the right, who is larger than the mean of the tail and of those before it.
    lowered = right > level(rest, [a[:, :-1] for a in above])
    head = lowered.sum(1, keepdim=True).clamp(min=1)
    c = level(rest, [a.gather(1, head) for a in above])
    # Blocks as a whole: all that have the value of the last one.
    pooled = [(up <= up.gather(1, tail - 1)).flip(1), right >= right.gather(1, head - 1)]
    return torch.cat([up.clamp(min=c).flip(1), right.clamp(max=c)], 1), torch.cat(pooled, 1)


def _sums(x: torch.Tensor, mean: Mean) -> torch.Tensor:
    return torch.nn.functional.pad(mean.cumulate(x), (1, 0), value=mean.zero)
