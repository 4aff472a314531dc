"""Inputs of checks: sample and awkward utilities, the size of a set, and how a failure names an input."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sst_cvx.checks.report import Input, NotApplicable
from sst_cvx.structure.base import Structure

_MOST_VERTICES = 20_000  # enumerated in full up to here
_ORDINARY = (0.05, 20.0)  # sizes that count as 1


def sample_utilities(structure: Structure, batch: tuple[int, ...], seed: int) -> torch.Tensor:
    """Standard normal utilities, float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, *structure.event_shape)
    return torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")


def degenerate_utilities(structure: Structure, seed: int) -> dict[str, torch.Tensor]:
    """Named batches of awkward utilities: ties, all equal, a huge range, tiny differences."""
    u = sample_utilities(structure, (4,), seed)
    return {
        "zeros": torch.zeros_like(u[:1]),
        "ties": u.round(),
        "two values": torch.sign(u),
        "range 1e4": u / u.abs().max().clamp(min=1e-9) * 5e3,
        "differences 1e-9": 1.0 + 1e-9 * u,
    }


def ordinary(size: float) -> float:
    """A size, or 1 where it is of that order (or no size at all)."""
    return size if 0 < size < _ORDINARY[0] or _ORDINARY[1] < size < float("inf") else 1.0


@dataclass(frozen=True)
class Extent:
    """Where a set is, and how large: what errors are judged by.

    Attributes:
        centre, width: of its bounding box, ``event_shape``.
        length: the largest width; 1 where it is of that order.
        reach: what rounding is relative to: the length, or, of a set far from 0, a millionth of its distance.
    """

    centre: torch.Tensor
    width: torch.Tensor

    @staticmethod
    def of(structure: Structure, parameters: dict[str, torch.Tensor]) -> Extent:
        """Of the hull; of a wrong one, anything."""
        try:
            if parameters:
                u = sample_utilities(structure, (16,), 0)
                x = structure.argmax(torch.cat([u, -u]), **parameters).double()
                low, high = x.amin(0), x.amax(0)
            else:
                low, high = (
                    torch.as_tensor(end, dtype=torch.float64).reshape(structure.event_shape)
                    for end in structure.coordinate_range() or ()
                )
        except Exception:  # another check says what is wrong
            low, high = torch.zeros(structure.event_shape).double(), torch.ones(structure.event_shape).double()
        low, high = low.nan_to_num(0.0, 1.0, 0.0), high.nan_to_num(1.0, 1.0, 0.0)
        return Extent((low + high) / 2, (high - low).clamp(min=0.0))

    @property
    def length(self) -> float:
        return ordinary(float(self.width.max()))

    @property
    def reach(self) -> float:
        return max(self.length, 1e-6 * float(self.centre.abs().max()))


def name_input(u: torch.Tensor, element: int, before: str = "", **others: object) -> Input:
    """One of a batch of utilities, as a failure names it; ``before`` and ``others`` say what else there was."""
    first = "" if len(u) == 1 else f"batch element {element} of {len(u)}, "
    text = f"{before}, {first}u = {listed(u[element])}".removeprefix(", ")
    return Input(text, u=u[element].detach().clone(), **others)


def listed(x: torch.Tensor) -> str:
    """The first numbers of an array."""
    numbers = x.detach().flatten().tolist()
    return f"[{', '.join(f'{v:.5g}' for v in numbers[:8])}{f', ... {len(numbers)} numbers' * (len(numbers) > 8)}]"


def enumerate_vertices(structure: Structure) -> torch.Tensor:
    """``vertices()``, flat, or NotApplicable."""
    if not structure.has_vertices():
        raise NotApplicable("vertices() is not given")
    points = structure.vertices()
    if points.shape[1:] != structure.event_shape:
        raise ValueError(f"vertices() has shape {tuple(points.shape)}, not (count, *{structure.event_shape}).")
    if len(points) > _MOST_VERTICES:
        raise NotApplicable(f"{len(points)} vertices are too many: use a smaller instance")
    return points.reshape(len(points), -1)
