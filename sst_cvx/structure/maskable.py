"""What a structure answers with forbidden items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_utilities
from sst_cvx.errors import Elements, SolveError
from sst_cvx.host import may_ask
from sst_cvx.once import computed_once, later
from sst_cvx.structure import operator
from sst_cvx.structure.composable import make
from sst_cvx.structure.faces import Faces
from sst_cvx.structure.kinds import are_unit_vectors, seem_binary
from sst_cvx.structure.masks import Mask, expand_mask

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Maskable:
    """The part of ``Structure`` that masks ask: ``self`` is one."""

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """Items that must be there whatever a mask ``(*batch, *event_shape)`` allows, bool of its shape, or None.

        E.g. an edge to each vertex that a mask cuts off, so that there are spanning trees; answers leave them out.
        """
        del allowed
        return None

    def with_fillers(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Points ``(*batch, *event_shape)`` without any but allowed items, completed to points of the whole hull: the
        opposite of ``mask.removed``. By default, all fillers are there."""
        return torch.where(mask.kept & ~mask.allowed, 1.0, x)

    def check_mask(self: Any, mask: object, shape: torch.Size, device: torch.device | None = None) -> Mask:
        """The mask for utilities ``(*batch, *event_shape)`` of this shape, on ``device`` (by default its own).

        Raises:
            TypeError: not a bool tensor. ValueError: a shape that does not broadcast, a set of other than 0/1 arrays,
                or with parameters.
        """
        own = mask.device if isinstance(mask, torch.Tensor) else torch.device("cpu")
        if self.parameters:
            raise ValueError("mask does not go with hull parameters: make an upper bound of the variable a parameter.")
        allowed = expand_mask(mask, shape, device or own)
        if not (self.known_binary or torch.compiler.is_compiling() or self.binary):
            raise ValueError(f"mask needs a set of 0/1 arrays, where 0 means absence: {self!r} has other entries.")
        fillers = self.fillers(allowed)
        return Mask(allowed, allowed if fillers is None else allowed | fillers, len(shape) - len(self.event_shape))

    def masked_argmax(self: Any, u: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``argmax`` over the elements that are 0 wherever ``mask`` (bool, broadcasts to u) is False.

        Utilities of forbidden items do not count, not even if they are NaN or infinite.

        Raises:
            TypeError, ValueError: as ``argmax``; a mask that is not bool or does not broadcast; a set with other
                entries than 0 and 1, or parameters. SolveError: every element has a forbidden item.
        """
        batch_shape = check_utilities(u, self.event_shape)
        masked = self.check_mask(mask, u.shape, u.device)
        wide = u.detach().to(torch.promote_types(u.dtype, torch.float32))  # 16 bits hold no utilities that low
        if not may_ask(wide) and not self.argmax_on_device:
            return operator.argmax(self, wide, masked.allowed, {}).to(u.dtype)
        if self.overrides("argmax"):
            return masked.removed(self.argmax(masked.lowered(wide))).to(u.dtype)
        elements = Elements(batch_shape)
        flat = torch.where(masked.allowed, wide, 0.0).reshape(-1, *self.event_shape)

        def ask(face: Any, rows: torch.Tensor) -> torch.Tensor:
            try:
                return face.argmax(flat[rows])
            except SolveError as error:
                numbers = [e[0] for e in error.elements]
                raise elements.take(rows).error(error.message, numbers, error.status) from error.__cause__

        try:
            x = self._faces.answer(masked.flat(), flat, ask)
        except SolveError as error:
            raise elements.rename(error) from error.__cause__
        return x.reshape(u.shape).to(u.dtype)

    def masked_log_partition(self: Any, u: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``log_partition`` over the elements that are 0 wherever ``mask`` is False; arguments as ``masked_argmax``."""
        check_utilities(u, self.event_shape)
        masked = self.check_mask(mask, u.shape, u.device)
        lowered = masked.lowered(u.double())
        values = self.log_partition(lowered)
        return masked.unless_empty(values, values < masked.least(lowered)).to(u.dtype)

    @computed_once
    def _faces(self: Any) -> Faces[Any]:
        return Faces(self.face)

    @computed_once
    def binary(self: Any) -> bool:
        """Whether the elements of X are 0/1 arrays."""
        return self.known_binary or seem_binary(self.argmax, self.event_shape)

    @computed_once
    def one_hot(self: Any) -> bool:
        """Whether X is the set of unit vectors."""
        return len(self.event_shape) == 1 and self.binary and are_unit_vectors(self.argmax, self.event_shape[0])

    def face(self: Any, allowed: np.ndarray) -> Any:
        """The structure with the items that a flat mask forbids (but for fillers) fixed at 0, a declaration of its own.

        Raises:
            EmptySet: nothing is left.
        """
        fillers, kept = self.fillers(torch.from_numpy(allowed).reshape(self.event_shape)), allowed
        if fillers is not None:
            kept = allowed | fillers.numpy().reshape(-1)
        constraints = list(self.constraints)
        if not kept.all():
            constraints.append(cp.vec(self.variable, order="C")[np.flatnonzero(~kept)] == 0)
        return make("face", self, constraints, kept)
