"""Whether points given by the user are what they should be: elements of X, or points of conv(X)."""

from __future__ import annotations

import torch

from sst_cvx.arguments import check_finite, check_utilities
from sst_cvx.errors import name_elements
from sst_cvx.faults import not_finite
from sst_cvx.host import may_ask
from sst_cvx.structure.base import Structure

#: What is told later, where the host must not be asked.
NO_ELEMENT = "points must be elements of the set (or in its hull), but are not for {elements}."
_OUTSIDE = 1e-4  # violation of the hull that a mean of float32 elements does not reach


def check_elements(
    structure: Structure, x: torch.Tensor, mask: torch.Tensor | None, name: str = "x"
) -> torch.Tensor | None:
    """Raise ValueError unless points ``(*batch, *event_shape)`` are elements of X without forbidden items.

    For 0/1 arrays that is exact, by one argmax. Other sets: as ``check_inside``. Where the host must not be asked,
    which points are not, bool ``(*batch,)``.
    """
    wrong = _check_rows(structure, x, mask, name)
    if torch.compiler.is_compiling() and not structure.known_binary:
        return wrong  # whether X is of 0/1 arrays cannot be found out here
    if not structure.binary:
        return wrong
    return _refuse(_no_element(structure, x, mask), f"{name} must be elements of {structure!r}", wrong)


def check_inside(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None, name: str) -> torch.Tensor | None:
    """Raise ValueError unless points ``(*batch, *event_shape)`` are finite, 0 at forbidden items, and in conv(X).

    Of hulls with auxiliary variables only some rows are seen. Where argmax is the structure's own algorithm, points of
    zeros and ones are told exactly all the same. Where the host must not be asked, which points are not, bool
    ``(*batch,)``.
    """
    wrong = _check_rows(structure, x, mask, name)
    if structure.sees_hull or not structure.overrides("argmax"):
        return wrong
    if (torch.compiler.is_compiling() and not structure.known_binary) or not structure.binary:
        return wrong
    hard = ~_any((x != 0) & (x != 1), structure)
    if wrong is not None or bool(hard.any()):
        outside = hard & _no_element(structure, x, mask)
        wrong = _refuse(outside, f"{name} must be in conv(X) of {structure!r}", wrong)
    return wrong


def _check_rows(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None, name: str) -> torch.Tensor | None:
    batch_shape = check_utilities(x, structure.event_shape, name)
    x = x.detach()
    wrong = None
    if may_ask(x):
        check_finite(x, name)
    else:
        wrong = not_finite(x, len(batch_shape)).reshape(batch_shape)
    if mask is not None:
        masked = structure.check_mask(mask, x.shape, x.device)
        wrong = _refuse(_any((x != 0) & ~masked.allowed, structure), f"{name} must be 0 where mask is False", wrong)
        x = structure.with_fillers(x, masked)
    if not structure.parameters:
        flat = x.reshape(batch_shape.numel(), structure.event_size)
        violation = structure.violation(flat) if may_ask(x) else structure.violation_by_tensors(flat)
        tolerance = max(_OUTSIDE, 4 * torch.finfo(x.dtype).eps * structure.event_size**0.5)
        outside = ~(violation <= tolerance).reshape(batch_shape)
        wrong = _refuse(outside, f"{name} must be in conv(X) of {structure!r}", wrong)
    return wrong


def _no_element(structure: Structure, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Whether 0/1 points are no elements of a set of 0/1 arrays: another element v has as large a <2 x - 1, v>."""
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))  # recursions overflow in 16 bits
    direction = 2 * x - 1
    best = structure.argmax(direction) if mask is None else structure.masked_argmax(direction, mask)
    return _any(best != x, structure)


def _any(wrong: torch.Tensor, structure: Structure) -> torch.Tensor:
    """Whether anything is wrong, by batch element."""
    return wrong.flatten(wrong.dim() - len(structure.event_shape)).any(-1) if structure.event_shape else wrong


def _refuse(wrong: torch.Tensor, message: str, before: torch.Tensor | None) -> torch.Tensor | None:
    """Raise; or, where there is a list of what was wrong before, add to it."""
    if before is not None:
        return before | wrong
    if bool(wrong.any()):
        raise ValueError(f"{message}: not so for {name_elements([tuple(i) for i in torch.nonzero(wrong).tolist()])}.")
    return None
