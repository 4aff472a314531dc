"""Masks: forbidden items at exactly 0, for sequences and graphs that are padded to one size.

For 0/1 arrays, { x in conv(X) : x_i = 0 for forbidden i } is a face of the hull, and so the hull of the elements of X
without these items. Algorithms of a structure (argmax, log-partition, fast paths) reach that face by utilities of
forbidden items so low that their weight underflows: with M = 2 sum |u| + t (1000 + size), any element with a forbidden
item is worth t (1000 + size) less than every other. The generic paths get the face itself, declared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from sst_cvx.arguments import check_utilities
from sst_cvx.errors import SolveError

if TYPE_CHECKING:
    from sst_cvx.structure.base import Structure

_FACES = 256  # faces kept by one structure or soft argmax
_EMPTY = "no element of the set avoids the forbidden items of {elements}: allow more items, or drop these elements."
_CARRIED = 1e-4  # weight on forbidden items from which a set is empty: it is at least 1 then, and rounding otherwise


def length_mask(lengths: torch.Tensor, n: int) -> torch.Tensor:
    """Mask of sequences padded to n items: ``(*batch,)`` integers to ``(*batch, n)`` bool, True before the length.

    Raises:
        TypeError: not an integer tensor. ValueError: a length that is not between 0 and n.
    """
    if not isinstance(lengths, torch.Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError("lengths must be an integer tensor.")
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= n:
        raise ValueError(f"lengths must be between 0 and {n}, got {int(lengths.min())} to {int(lengths.max())}.")
    return torch.arange(n, device=lengths.device) < lengths[..., None]


def check_mask(structure: Structure, mask: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The mask, expanded to the shape of the utilities.

    Raises:
        TypeError: not a bool tensor. ValueError: a shape that does not broadcast, or a set of other than 0/1 arrays.
    """
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor, True where an item is allowed, got {what}.")
    if structure.parameters:
        raise ValueError("mask does not go with hull parameters: make an upper bound of the variable a parameter.")
    if not structure.binary:
        raise ValueError(f"mask needs a set of 0/1 arrays, where 0 means absence: {structure!r} has other entries.")
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to utilities {tuple(shape)}.") from None


class Mask:
    """A mask checked against a structure and utilities.

    Attributes:
        allowed: bool, of the shape of the utilities.
        kept: allowed items and the structure's ``fillers``, which it needs to have any element and which are removed
            from answers.

    Raises:
        TypeError, ValueError: as ``check_mask``.
    """

    def __init__(self, structure: Structure, u: torch.Tensor, mask: torch.Tensor):
        batch_shape = check_utilities(u, structure.event_shape)
        self.allowed = check_mask(structure, mask, u.shape).to(u.device)
        fillers = structure.fillers(self.allowed)
        self.kept = self.allowed if fillers is None else self.allowed | fillers
        self.batch_shape, self._flat = batch_shape, (*batch_shape, structure.variable.size)

    def of(self, elements: torch.Tensor) -> Mask:
        """The mask of some elements of the flat batch, as a batch of its own."""
        part = copy(self)
        event = self.allowed.shape[len(self.batch_shape) :]
        part.allowed = self.allowed.reshape(-1, *event)[elements]
        part.kept = self.kept.reshape(-1, *event)[elements]
        part.batch_shape, part._flat = elements.shape, (len(elements), self._flat[-1])
        return part

    def lowered(self, u: torch.Tensor, t: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Utilities with fillers at 0 and forbidden items so low that they carry no weight at temperature t
        (a number, or of the batch's shape)."""
        u = torch.where(self.allowed, u, 0.0)
        flat = u.detach().reshape(self._flat)
        t = torch.as_tensor(t).detach().to(u.device)
        bottom = -(2 * flat.abs().sum(-1) + t * (1000 + flat.shape[-1])).to(u.dtype)
        return torch.where(self.kept, u, bottom.reshape(*bottom.shape, *[1] * (u.dim() - bottom.dim())))

    def checked(self, x: torch.Tensor) -> torch.Tensor:
        """Points as they are.

        Raises:
            SolveError: forbidden items carry weight, because no element does without them.
        """
        weight = torch.where(self.kept, 0.0, x.detach()).reshape(self._flat).abs().amax(-1)
        self.refuse(weight > _CARRIED)
        return x

    def removed(self, x: torch.Tensor) -> torch.Tensor:
        """Points, checked, with all but allowed items at exactly 0."""
        return torch.where(self.allowed, self.checked(x), 0.0)

    def least(self, lowered: torch.Tensor) -> torch.Tensor:
        """Less than the log-weight of any element without forbidden items, ``(*batch,)``."""
        flat = torch.where(self.kept, lowered.detach(), 0.0).reshape(self._flat)
        return -flat.abs().sum(-1) - 1

    def refuse(self, empty: torch.Tensor) -> None:
        """Raise SolveError where ``empty``, ``(*batch,)``."""
        if bool(empty.any()):
            elements = torch.nonzero(empty.reshape(-1)).flatten().tolist()
            raise SolveError(_EMPTY, elements).in_batch(self.batch_shape)

    def groups(self) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Distinct masks, flat, with the numbers of the batch elements that have them."""
        flat = self.kept.reshape(self.batch_shape.numel(), self._flat[-1])
        rows, which = torch.unique(flat, dim=0, return_inverse=True)
        return [(row, torch.nonzero(which == i).flatten()) for i, row in enumerate(rows.cpu().numpy())]


class Faces:
    """What was compiled for the faces of one hull, the latest ones kept."""

    def __init__(self, structure: Structure):
        self._structure = structure
        self._made: OrderedDict[bytes, object] = OrderedDict()

    def __call__(self, kept: np.ndarray, make: Callable[[Structure], object]) -> object:
        """``make(face)`` for the face of the flat mask ``kept``.

        Raises:
            ValueError: the face is empty.
        """
        key = kept.tobytes()
        if key not in self._made:
            self._made[key] = make(self._structure.face(kept))
            while len(self._made) > _FACES:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]


def by_face(
    mask: Mask, faces: Faces, make: Callable[[Structure], object], u: torch.Tensor, answer: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """``answer(make(face), elements)`` for every distinct mask, put together in the shape of ``u``."""
    flat = u.reshape(mask.batch_shape.numel(), u.shape[len(mask.batch_shape) :].numel()) * 0
    for kept, elements in mask.groups():
        try:
            compiled = faces(kept, make)
        except ValueError as error:
            if "empty" not in str(error):
                raise
            raise SolveError(_EMPTY, elements.tolist()).in_batch(mask.batch_shape) from error
        try:
            part = answer(compiled, elements)
        except SolveError as error:
            raise error.among(elements.tolist()).in_batch(mask.batch_shape) from error.__cause__
        flat = flat.index_copy(0, elements.to(flat.device), part.reshape(len(elements), -1))
    return torch.where(mask.allowed, flat.reshape(u.shape), 0.0)
