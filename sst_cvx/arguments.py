"""Checks of arguments: what is refused, and with which words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sst_cvx.host import may_ask


def check_utilities(u: Any, event_shape: tuple[int, ...], name: str = "utilities") -> torch.Size:
    """Batch shape of utilities ``u``: ``(*batch, *event_shape)``.

    Raises:
        TypeError: not a real floating-point tensor.
        ValueError: the trailing dimensions are not ``event_shape``.
    """
    if not isinstance(u, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(u).__name__}: use torch.as_tensor(...).")
    if not u.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {u.dtype}: convert with .float() or .double().")
    split = u.dim() - len(event_shape)
    if split < 0 or tuple(u.shape[split:]) != event_shape:
        raise ValueError(
            f"{name} must have shape (*batch, {', '.join(map(str, event_shape))}), got {tuple(u.shape)}: "
            f"the last {len(event_shape)} dimension(s) are the event, everything before them the batch."
        )
    return u.shape[:split]


class Absent(ValueError):
    """Numbers are not finite, but those that are not are all -inf: as utilities of forbidden items may be."""


def surely_finite(x: torch.Tensor) -> bool:
    """Whether the sum of all entries is finite, and so is every entry: one pass. False says nothing, sums overflow."""
    return math.isfinite(x.detach().sum().item())


def check_finite(x: torch.Tensor, name: str, *, at: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None) -> None:
    """Raise ValueError, with the place of the first offender, unless every entry is finite; ``Absent``, which is one,
    where they are -inf at worst.

    ``at`` turns its index into the caller's.
    """
    if surely_finite(x):
        return
    x = x.detach()
    finite, absent = torch.isfinite(x), x == -math.inf
    if not bool(finite.all()):
        kind, wrong = (ValueError, ~finite & ~absent) if not bool((finite | absent).all()) else (Absent, absent)
        first = tuple(int(i) for i in torch.nonzero(wrong)[0])
        place = first if at is None else at(first)
        raise kind(f"{name} must be finite, but entry {place} is {x[first].item()}.")


def check_temperature(
    temperature: Any, u: torch.Tensor, batch_shape: torch.Size, event_dim: int
) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """The temperature as given, and a version that divides ``(*batch, *event)`` utilities.

    Accepts a positive number, or a positive tensor of shape ``()`` or one that broadcasts to ``batch_shape``.

    Raises:
        TypeError: not a number or tensor. ValueError: not positive and finite (of tensors: where the host may be
            asked), or a shape that does not broadcast.
    """
    if isinstance(temperature, (bool, np.bool_)) or not isinstance(temperature, (int, float, np.number, torch.Tensor)):
        raise TypeError(f"temperature must be a positive number or tensor, got {type(temperature).__name__}.")
    if not isinstance(temperature, torch.Tensor):
        t = float(temperature)
        if not 0 < t < math.inf:  # compilers follow comparisons of numbers that change, but no math.isfinite
            raise ValueError(f"temperature must be positive and finite, got {t}; for t = 0 use structure.argmax(u).")
        return t, t
    if temperature.is_complex() or temperature.dtype == torch.bool:
        raise TypeError(f"temperature must be real, got {temperature.dtype}.")
    if may_ask(temperature) and not bool((torch.isfinite(temperature) & (temperature > 0)).all()):
        raise ValueError("temperature must be positive and finite everywhere; for t = 0 use structure.argmax(u).")
    try:
        fits = torch.broadcast_shapes(temperature.shape, batch_shape) == batch_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"temperature has shape {tuple(temperature.shape)}, which does not broadcast to the batch shape "
            f"{tuple(batch_shape)}: give a number, a scalar tensor, or one temperature a batch element."
        )
    t = temperature.to(dtype=u.dtype, device=u.device)
    return t, t.reshape(*t.shape, *([1] * event_dim))


def check_size(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An integer in a range, or TypeError, ValueError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {limits}, got {value}.")
    return int(value)


def check_edge_index(edge_index: Any) -> tuple[torch.Tensor, int]:
    """``(2, edges)`` on the CPU as int64, and the number of vertices, or TypeError, ValueError."""
    if not isinstance(edge_index, torch.Tensor) or edge_index.is_floating_point() or edge_index.dtype == torch.bool:
        raise TypeError("edge_index must be an integer tensor (2, edges).")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or not edge_index.numel() or int(edge_index.min()) < 0:
        raise ValueError(f"edge_index must be (2, edges) with vertices from 0, got shape {tuple(edge_index.shape)}.")
    return edge_index.detach().to("cpu", torch.long).clone(), int(edge_index.max()) + 1


def check_vertex_count(structure: Any, count: int, limit: int = 200_000) -> None:
    """Refuse to list more vertices than fit in memory."""
    if count > limit:
        raise ValueError(f"{structure!r} has {count} vertices, too many to list (limit {limit}).")
