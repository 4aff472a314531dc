"""Isotonic regression, batched: the nearest sequence that does not increase, by merging halves.

The solution is constant on blocks, where it is the mean. Two solved halves violate the order only where they meet, and
one new block repairs it: the end of the left half below its value c, the beginning of the right one above, where

    h(c) = sum over the left of (c - v_i)^+  -  sum over the right of (v_j - c)^+ = 0,

an increasing function whose values at all v_i and v_j say who belongs to the block. log2(n) merges, each of them a few
operations on all halves and all elements of the batch. (Pool-adjacent-violators, which needs a loop over the batch,
finds the same blocks: Best, Chakravarti 1990.)
"""

from __future__ import annotations

import torch


def isotonic_regression(y: torch.Tensor) -> torch.Tensor:
    """argmin { |v - y|^2 : v_1 >= v_2 >= ... >= v_n } over the last dimension; same shape and dtype.

    Differentiable any number of times: the Jacobian takes means over blocks. Inside, float64.
    """
    if not y.numel():
        return y * 0
    flat = y.double().reshape(-1, y.shape[-1])
    fit = _fit(flat.detach())
    block = torch.nn.functional.pad((fit[:, 1:] != fit[:, :-1]).long(), (1, 0)).cumsum(-1)
    size = torch.zeros_like(flat).scatter_add(-1, block, torch.ones_like(flat)).clamp(min=1)
    mean = torch.zeros_like(flat).scatter_add(-1, block, flat) / size
    return mean.gather(-1, block).reshape(y.shape).to(y.dtype)


def _fit(y: torch.Tensor) -> torch.Tensor:
    """Values ``(batch, n)``, exactly equal within blocks."""
    batch, n = y.shape
    width = 1 << (n - 1).bit_length()
    bottom = y.amin(-1, keepdim=True) - 1  # below all means: what is appended stays apart
    v, size = torch.cat([y, bottom.expand(-1, width - n)], -1), 1
    while size < width:
        left, right = v.reshape(-1, 2, size).unbind(1)
        wrong = torch.nonzero(left[:, -1] < right[:, 0]).flatten()
        if wrong.numel():
            merged = _merge(left.index_select(0, wrong), right.index_select(0, wrong))
            v = v.reshape(-1, 2 * size).index_copy(0, wrong, merged)
        size *= 2
    return v.reshape(batch, width)[:, :n]


def _merge(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Both ``(pairs, size)`` and not increasing; ``(pairs, 2 size)``."""
    size = left.shape[1]
    up = left.flip(1)  # not decreasing: the part below any level comes first
    below = torch.nn.functional.pad(up.cumsum(1), (1, 0))
    above = torch.nn.functional.pad(right.cumsum(1), (1, 0))
    # At the levels of the left half: how many of the left are below, of the right above; and the other way round.
    place = torch.arange(size, device=left.device, dtype=left.dtype)
    over = torch.searchsorted(-right, -up)
    at_left = up * place - below[:, :-1] - (above.gather(1, over) - up * over)
    under = torch.searchsorted(up, right.contiguous())
    at_right = right * under - below.gather(1, under) - (above[:, :-1] - right * place)
    tail = (at_left < 0).sum(1, keepdim=True).clamp(min=1)  # rounding must not leave a violation unrepaired
    head = (at_right > 0).sum(1, keepdim=True).clamp(min=1)
    mean = (below.gather(1, tail) + above.gather(1, head)) / (tail + head)
    return torch.cat([torch.where(place < tail, mean, up).flip(1), torch.where(place < head, mean, right)], 1)
