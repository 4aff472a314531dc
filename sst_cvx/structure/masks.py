"""Masks: forbidden items at exactly 0, for sequences and graphs that are padded to one size.

For 0/1 arrays, { x in conv(X) : x_i = 0 for forbidden i } is a face of the hull, and so the hull of the elements of X
without these items. Algorithms of a structure (argmax, log-partition, fast paths) reach that face by utilities of
forbidden items so low that their weight underflows: with M = 2 sum |u| + t (1000 + size), any element with a forbidden
item is worth t (1000 + size) less than every other. The generic paths get the face itself, declared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sst_cvx.errors import SolveError
from sst_cvx.faults import Faults, spoiled
from sst_cvx.host import may_ask

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


def expand_mask(mask: object, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """A mask in the shape of the utilities, and on their device.

    Raises:
        TypeError: not a bool tensor. ValueError: a shape that does not broadcast.
    """
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        what = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor, True where an item is allowed, got {what}.")
    if not torch.compiler.is_compiling() and mask.is_inference() and not torch.is_inference_mode_enabled():
        mask = mask.clone()  # autograd saves no inference tensors
    try:
        return mask.to(device).expand(shape)
    except RuntimeError:
        raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to utilities {tuple(shape)}.") from None


@dataclass(frozen=True)
class Mask:
    """Which items may be in an element, ``(*batch, *event_shape)``, bool; made by ``Structure.check_mask``.

    Attributes:
        allowed: False where an item is forbidden.
        kept: allowed items and the structure's ``fillers``, which it needs to have any element and which are removed
            from answers.
        batch_dim: number of batch dimensions.
        implied: by utilities of -inf, where the host was not asked whether there is any.
    """

    allowed: torch.Tensor
    kept: torch.Tensor
    batch_dim: int
    implied: bool = False

    @property
    def batch_shape(self) -> torch.Size:
        return self.allowed.shape[: self.batch_dim]

    def flat(self) -> Mask:
        """The same mask of a flat batch ``(count, *event_shape)``."""
        event = self.allowed.shape[self.batch_dim :]
        count = self.batch_shape.numel()
        return Mask(self.allowed.reshape(count, *event), self.kept.reshape(count, *event), 1, self.implied)

    def take(self, elements: torch.Tensor) -> Mask:
        """The mask of some elements of a flat batch."""
        return Mask(self.allowed[elements], self.kept[elements], 1, self.implied)

    def lowered(self, u: torch.Tensor, t: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Utilities with fillers at 0 and forbidden items so low that they carry no weight at temperature t
        (a number, or of the batch's shape)."""
        u = torch.where(self.allowed, u, 0.0)
        flat = self._by_element(u.detach())
        t = t.detach().to(u.device) if isinstance(t, torch.Tensor) else t
        bottom = -(2 * flat.abs().sum(-1) + t * (1000 + flat.shape[-1])).to(u.dtype)
        return torch.where(self.kept, u, bottom.reshape(*bottom.shape, *[1] * (u.dim() - bottom.dim())))

    def removed(self, x: torch.Tensor, faults: Faults | None = None) -> torch.Tensor:
        """Points with all but allowed items at exactly 0; NaN, where the host must not be asked, in place of an error.

        Raises:
            SolveError: forbidden items carry weight, because no element does without them.
        """
        return torch.where(self.allowed, self.unless_empty(x, self._carry(x), faults), 0.0)

    def _carry(self, x: torch.Tensor) -> torch.Tensor:
        """Whether forbidden items carry weight, ``(*batch,)``."""
        return self._by_element(torch.where(self.kept, 0.0, x.detach())).abs().amax(-1) > _CARRIED

    def least(self, lowered: torch.Tensor) -> torch.Tensor:
        """Less than the log-weight of any element without forbidden items, ``(*batch,)``."""
        return -self._by_element(torch.where(self.kept, lowered.detach(), 0.0)).abs().sum(-1) - 1

    def unless_empty(self, x: torch.Tensor, empty: torch.Tensor, faults: Faults | None = None) -> torch.Tensor:
        """Values ``(*batch, ...)`` as they are; NaN, with NaN for a gradient, where ``empty``, ``(*batch,)``, if the
        host must not be asked. ``faults``, if given, are told instead.

        Raises:
            SolveError: else.
        """
        if faults is not None:
            faults.add(empty.reshape(-1), _EMPTY)
        elif may_ask(empty):
            self.refuse(empty)
        else:
            x = spoiled(x, empty, "mask", _EMPTY)
        return x

    def refuse(self, empty: torch.Tensor) -> None:
        """Raise SolveError where ``empty``, ``(*batch,)``."""
        if bool(empty.any()):
            error = empty_error(torch.nonzero(empty.reshape(-1)).flatten().tolist())
            raise error if self.batch_dim == 1 else error.in_batch(self.batch_shape)  # a flat batch is named later

    def groups(self) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Distinct masks, flat, with the numbers of the batch elements that have them."""
        rows, which = torch.unique(self._by_element(self.allowed).flatten(0, -2), dim=0, return_inverse=True)
        return [(row, torch.nonzero(which == i).flatten()) for i, row in enumerate(rows.cpu().numpy())]

    def _by_element(self, x: torch.Tensor) -> torch.Tensor:
        """``(*batch, *event_shape)`` to ``(*batch, size)``."""
        return x.reshape(*x.shape[: self.batch_dim], x.shape[self.batch_dim :].numel())


def empty_error(elements: list[int]) -> SolveError:
    """Elements of a flat batch whose masks leave nothing."""
    return SolveError(_EMPTY, elements)
