"""Sizes of subsets that are given with each call, one a row: the hull parameter ``k``."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.host import may_ask

#: What is not there, and what to do.
REFUSAL = (
    "with k=None there is no log-partition, sampling, logarithm or list of vertices: "
    "use the structure with an integer k"
)


def column(k: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Sizes ``(*batch,)`` or ``(count,)`` as ``(*batch, 1)``, of the dtype and device of utilities ``(*batch, n)``.

    Raises:
        ValueError: not between 0 and n (where the host may not be asked: NaN instead).
    """
    n, k = u.shape[-1], k.reshape(*u.shape[:-1], 1)
    right = (k.detach() >= 0) & (k.detach() <= n)
    if not may_ask(k):
        return torch.where(right, k, torch.nan).to(u.device, u.dtype)
    if not bool(right.all()):
        raise ValueError(f"k must be between 0 and {n}, the number of items, everywhere.")
    return k.to(u.device, u.dtype)


def at_points(x: torch.Tensor, parameters: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """The sizes of points ``(count, n)``, on their device, without derivative."""
    return (parameters or {})["k"].detach().to(x.device)


def largest(structure: Any, u: torch.Tensor, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """1 at the k largest utilities, 0 elsewhere; where k is no integer, a fraction at the next."""
    k = column(structure.flat_parameters(parameters, u.shape[:-1])["k"], u)
    order = u.argsort(-1, descending=True)
    ranks = torch.arange(u.shape[-1], dtype=u.dtype, device=u.device).expand_as(u)
    return torch.zeros_like(u).scatter(-1, order, (k - ranks).clamp(0.0, 1.0))
