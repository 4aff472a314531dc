"""Arguments that are vectors of integers, one number standing for all entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: Beyond, sums of a few thousand are no longer exact in float64.
LARGEST = 2**40


def whole_numbers(name: str, value: Any, size: int, least: int | None = 0, what: str = "") -> np.ndarray:
    """``(size,)``, int64, of an integer, a sequence of integers or an integer tensor ``()`` or ``(size,)``.

    Raises:
        TypeError: not integers. ValueError: another number of them, or out of range.
    """
    try:
        given = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError):
        given = np.asarray(None)
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"{name} must be integers, got {value!r}.")
    if given.shape not in ((), (size,)):
        raise ValueError(f"{name} must be one integer or {size}{what}, got shape {given.shape}.")
    if given.size and ((least is not None and given.min() < least) or np.abs(given.astype(float)).max() > LARGEST):
        limits = f"between {-LARGEST if least is None else least} and {LARGEST}"
        raise ValueError(f"{name} must be {limits}, got {given.min()} to {given.max()}.")
    return np.broadcast_to(given, (size,)).astype(np.int64)
