"""How much further a declared hull reaches than conv(X)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sst_cvx.arguments import check_size, check_utilities
from sst_cvx.hull.linear import LinearHull

_ROWS = 32  # rows of a hull, and sums of rows, that count as directions
_LONGEST = 6  # rows in one sum
_FLAT = 1e-9  # width, relative to the largest entries of a direction and of the hull, that counts as none


def integrality_gap(
    structure: Any, directions: int | torch.Tensor, seed: int, parameters: dict[str, torch.Tensor]
) -> float:
    """See ``Structure.integrality_gap``."""
    gap = gaps(structure, directions_of(structure, directions, seed, parameters), parameters)
    return float(gap.max()) if gap.numel() else 0.0


def directions_of(
    structure: Any, directions: int | torch.Tensor, seed: int, parameters: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Given ones, float64 on the CPU; or so many random ones, both ways along each coordinate, and along rows."""
    if isinstance(directions, torch.Tensor):
        check_utilities(directions, structure.event_shape, "directions")
        return directions.detach().to("cpu", torch.float64).reshape(-1, *structure.event_shape)
    count, size = check_size("directions", directions, 0), structure.event_size
    generator = torch.Generator().manual_seed(seed)
    some = torch.randn(count, size, dtype=torch.float64, generator=generator, device="cpu")
    axes = torch.eye(size, dtype=torch.float64, device="cpu")
    values = structure.flat_parameters(parameters, torch.Size([1])) if structure.hull.linear else {}
    numbers = {name: v[0].detach().numpy() for name, v in values.items()}
    rows = along_rows(structure.hull.at(numbers), seed) if structure.hull.linear else np.zeros((0, size))
    return torch.cat([some, axes, -axes, torch.from_numpy(rows)]).reshape(-1, *structure.event_shape)


def along_rows(hull: LinearHull, seed: int) -> np.ndarray:
    """Normals of inequalities over the event alone, and sums of a few that overlap, ``(count, size)``: where cuts that
    integer points have and the hull lacks are found (Chvatal 1973; x + y, y + z, x + z <= 1: x + y + z <= 1)."""
    other = np.ones(hull.lower.size)
    other[hull.event] = 0.0
    strict = (hull.row_lower < hull.row_upper) & (abs(hull.rows) @ other == 0)
    up, down = (np.isfinite(ends[strict]) for ends in (hull.row_upper, hull.row_lower))
    rows = hull.rows[np.flatnonzero(strict)][:, hull.event].toarray()
    rows = np.vstack([rows[up], -rows[down]])
    if not len(rows):
        return rows
    rng = np.random.default_rng(seed)
    found = list(rows[rng.permutation(len(rows))[:_ROWS]])
    for _ in range(_ROWS):
        left = list(range(len(rows)))
        total = rows[left.pop(rng.integers(len(left)))].copy()
        for _ in range(rng.integers(1, _LONGEST)):
            if not left:
                break
            overlap = np.abs(rows[left]) @ np.abs(total) + 1e-3 * rng.random(len(left))
            total += rows[left.pop(int(overlap.argmax()))]
            found.append(total.copy())
    return np.unique(found, axis=0)


def gaps(structure: Any, directions: torch.Tensor, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """(max over the hull - max over X of <d, x>) / width of the hull along d, for each direction, ``(count,)``."""
    best = structure.argmax(directions, **parameters)
    ends = structure.relaxed.argmax(torch.cat([directions, -directions]), **parameters)
    most, least = ((directions * end).flatten(1).sum(1) for end in ends.chunk(2))
    excess, width = most - (directions * best).flatten(1).sum(1), most - least
    flat = _FLAT * directions.flatten(1).abs().amax(1) * (1 + ends.abs().max())
    return torch.where(width > flat, excess / width.clamp(min=1e-300), 0.0).clamp(min=0.0)
