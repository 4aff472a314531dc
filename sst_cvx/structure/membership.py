"""Whether points given by the user are what they should be: elements of X, or points of conv(X)."""

from __future__ import annotations

import torch

from sst_cvx.arguments import check_finite, check_utilities
from sst_cvx.errors import name_elements
from sst_cvx.structure.base import Structure

_OUTSIDE = 1e-4  # violation of the hull that a mean of float32 elements does not reach


def check_elements(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None, name: str = "x") -> None:
    """Raise ValueError unless points ``(*batch, *event_shape)`` are elements of X without forbidden items.

    For 0/1 arrays that is exact, by one argmax. Other sets: as ``check_inside``.
    """
    _check_rows(structure, x, mask, name)
    if structure.binary:
        _refuse(_no_element(structure, x, mask), f"{name} must be elements of {structure!r}")


def check_inside(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None, name: str) -> None:
    """Raise ValueError unless points ``(*batch, *event_shape)`` are finite, 0 at forbidden items, and in conv(X).

    Of hulls with auxiliary variables only some rows are seen. Where argmax is the structure's own algorithm, points of
    zeros and ones are told exactly all the same.
    """
    _check_rows(structure, x, mask, name)
    if not structure.sees_hull and structure.overrides("argmax") and structure.binary:
        hard = ~_any((x != 0) & (x != 1), structure)
        if bool(hard.any()):
            _refuse(hard & _no_element(structure, x, mask), f"{name} must be in conv(X) of {structure!r}")


def _check_rows(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None, name: str) -> None:
    batch_shape = check_utilities(x, structure.event_shape, name)
    check_finite(x, name)
    x = x.detach()
    if mask is not None:
        masked = structure.check_mask(mask, x.shape, x.device)
        _refuse(_any((x != 0) & ~masked.allowed, structure), f"{name} must be 0 where mask is False")
        x = structure.with_fillers(x, masked)
    if not structure.parameters:
        violation = structure.violation(x.reshape(batch_shape.numel(), structure.variable.size))
        tolerance = max(_OUTSIDE, 4 * torch.finfo(x.dtype).eps * structure.variable.size**0.5)
        _refuse((violation > tolerance).reshape(batch_shape), f"{name} must be in conv(X) of {structure!r}")


def _no_element(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Whether 0/1 points are no elements of a set of 0/1 arrays: another element v has as large a <2 x - 1, v>."""
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))  # recursions overflow in 16 bits
    direction = 2 * x - 1
    best = structure.argmax(direction) if mask is None else structure.masked_argmax(direction, mask)
    return _any(best != x, structure)


def _any(wrong: torch.Tensor, structure: Structure) -> torch.Tensor:
    """Whether anything is wrong, by batch element."""
    return wrong.flatten(wrong.dim() - len(structure.event_shape)).any(-1) if structure.event_shape else wrong


def _refuse(wrong: torch.Tensor, message: str) -> None:
    if bool(wrong.any()):
        raise ValueError(f"{message}: not so for {name_elements([tuple(i) for i in torch.nonzero(wrong).tolist()])}.")
