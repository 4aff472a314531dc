"""Exact samples of subsets by halves: how many items are in the left half given the number in both, all halves at once.

The product tree of ``subset_sums_up_to`` holds at every node the chances of j heads among its coins, and, from the root
down, a node with j heads gives i of them to its left half with probability proportional to left_i right_(j - i). These
are log n steps for the whole batch, and nothing is read on the host.
"""

from __future__ import annotations

import torch

from polytopes.kernels.log_weights import draw_one
from polytopes.kernels.subset_sums_up_to import levels_of_products, tilt


def sample_subset_by_halves(u: torch.Tensor, least: int, most: int, generator: torch.Generator | None) -> torch.Tensor:
    """Subsets of ``least`` to ``most`` items of ``(count, n)`` float64 utilities, as 0/1 of the same shape."""
    n = u.shape[-1]
    if most == 0:
        return torch.zeros_like(u)
    theta = tilt(u, most) if most < n else torch.zeros_like(u[:, :1])
    theta = theta if least == most else theta.clamp(min=0.0)
    coins = torch.stack([torch.sigmoid(theta - u), torch.sigmoid(u - theta)], dim=-1)
    levels = levels_of_products(coins, most)
    size = torch.arange(least, most + 1, device=u.device)
    score = _log(levels[-1][:, 0, least:]) + (size - most) * theta
    heads = least + draw_one(score - score.amax(-1, keepdim=True), generator)  # (count, nodes)
    for factors in levels[-2::-1]:
        left, right = factors[:, 0::2], factors[:, 1::2]
        heads = heads[:, : left.shape[1]]
        first = torch.arange(left.shape[-1], device=u.device)
        others = heads[..., None] - first
        possible = (others >= 0) & (others < right.shape[-1])
        score = _log(left) + _log(right.gather(-1, others.clamp(0, right.shape[-1] - 1)))
        score = torch.where(possible, score, -torch.inf)
        score = score - score.amax(-1, keepdim=True)
        given = draw_one(score.flatten(0, 1), generator).reshape(heads.shape)
        heads = torch.stack([given, heads - given], dim=-1).flatten(1)
    return heads[:, :n].to(u.dtype)


def _log(x: torch.Tensor) -> torch.Tensor:
    """Finite, also of the traces of rounding where there is nothing."""
    return x.clamp(min=1e-300).log()
