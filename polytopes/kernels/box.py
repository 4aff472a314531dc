"""What can be seen of a set of 0/1 arrays without its hull."""

from __future__ import annotations

import torch

from sst_cvx import native

_SMALL = 10_000  # entries up to which a compiled loop beats a few operations


def box_violation(
    x: torch.Tensor, least: int | torch.Tensor, most: int | torch.Tensor, items: int | None = None
) -> torch.Tensor:
    """How far points ``(*batch, n)`` are outside of 0 <= x <= 1, and their sum outside of [least, most], relative to
    1 + most: ``(*batch,)``. With ``items`` the sum is that of the first ones alone. ``least`` and ``most`` may be
    ``(*batch,)``."""
    total = x[..., :items].sum(-1)
    outside = torch.maximum(-x, x - 1).amax(-1)
    return torch.maximum(outside, torch.maximum(least - total, total - most) / (1 + most))


def within_box(x: torch.Tensor, least: int, most: int, tolerance: float) -> bool:
    """Whether no violation of points ``(batch, n)`` exceeds the tolerance, by extreme entries and sums; False says
    nothing."""
    if torch._C._are_functorch_transforms_active() or not x.numel():
        return False
    room = tolerance * (1 + most)
    if x.numel() <= _SMALL and native.serves(x):
        from polytopes.kernels.native.box import holds

        return holds(native.array(x), least, most, tolerance, room)
    low, high = x.aminmax()
    if not (low.item() >= -tolerance and high.item() <= 1 + tolerance):
        return False
    if least <= 0 and most >= x.shape[-1]:
        return True
    low, high = x.sum(-1).aminmax()
    return low.item() >= least - room and high.item() <= most + room
