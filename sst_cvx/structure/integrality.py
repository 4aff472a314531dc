"""How much further a declared hull reaches than conv(X)."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.arguments import check_size, check_utilities

_FLAT = 1e-9  # width, relative to the largest entries of a direction and of the hull, that counts as none


def integrality_gap(
    structure: Any, directions: int | torch.Tensor, seed: int, parameters: dict[str, torch.Tensor]
) -> float:
    """See ``Structure.integrality_gap``."""
    gap = gaps(structure, directions_of(structure, directions, seed), parameters)
    return float(gap.max()) if gap.numel() else 0.0


def directions_of(structure: Any, directions: int | torch.Tensor, seed: int) -> torch.Tensor:
    """Given ones, float64 on the CPU; or so many random ones, and both ways along each coordinate."""
    if isinstance(directions, torch.Tensor):
        check_utilities(directions, structure.event_shape, "directions")
        return directions.detach().to("cpu", torch.float64).reshape(-1, *structure.event_shape)
    count, size = check_size("directions", directions, 0), structure.event_size
    generator = torch.Generator().manual_seed(seed)
    some = torch.randn(count, size, dtype=torch.float64, generator=generator, device="cpu")
    axes = torch.eye(size, dtype=torch.float64, device="cpu")
    return torch.cat([some, axes, -axes]).reshape(-1, *structure.event_shape)


def gaps(structure: Any, directions: torch.Tensor, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """(max over the hull - max over X of <d, x>) / width of the hull along d, for each direction, ``(count,)``."""
    best = structure.argmax(directions, **parameters)
    ends = structure.relaxed.argmax(torch.cat([directions, -directions]), **parameters)
    most, least = ((directions * end).flatten(1).sum(1) for end in ends.chunk(2))
    excess, width = most - (directions * best).flatten(1).sum(1), most - least
    flat = _FLAT * directions.flatten(1).abs().amax(1) * (1 + ends.abs().max())
    return torch.where(width > flat, excess / width.clamp(min=1e-300), 0.0).clamp(min=0.0)
