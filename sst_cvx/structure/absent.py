"""Items whose utility is -inf: forbidden, as by a mask, in sets of 0/1 arrays without hull parameters."""

from __future__ import annotations

import math
from typing import Any

import torch

from sst_cvx.arguments import surely_finite
from sst_cvx.host import may_ask


def takes_absent(structure: Any) -> bool:
    """Whether -inf has a meaning: where faces of the hull are those of a mask."""
    return not structure.parameters and (structure.known_binary or structure.binary)


def with_absent(structure: Any, u: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask that broadcasts to utilities, or None; and without what is -inf.

    It stays as it is where nothing is -inf, and where that has no meaning: whoever answers then refuses what is not
    finite. Where the host must not be asked, it is always made, for structures that say that they are 0/1 arrays.
    """
    u = u.detach()
    if not may_ask(u):
        if structure.parameters or not structure.known_binary:
            return mask
    elif surely_finite(u if mask is None else torch.where(mask.to(u.device), u, 0.0)) or not takes_absent(structure):
        return mask
    present = u != -math.inf
    return present if mask is None else present & mask.to(u.device)
