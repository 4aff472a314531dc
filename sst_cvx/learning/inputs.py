"""What enters: shapes, and tensors made under inference mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch

from sst_cvx.structure.base import Structure

_Value = TypeVar("_Value")


def check_shape(name: str, shape: Any) -> torch.Size:
    """``shape`` as a ``torch.Size``.

    Raises:
        TypeError: not a shape, such as a plain integer. ValueError: a negative size.
    """
    if not isinstance(shape, Iterable) or isinstance(shape, (str, bytes)):
        hint = f" ({int(shape)},)" if isinstance(shape, int) else ""
        raise TypeError(f"{name} must be a shape, such as{hint or ' (2, 3)'}, got {shape!r}.")
    try:
        size = torch.Size(shape)
    except TypeError:
        raise TypeError(f"{name} must be a shape, such as (2, 3), got {shape!r}.") from None
    if any(n < 0 for n in size):
        raise ValueError(f"{name} must have sizes of at least 0, got {tuple(size)}.")
    return size


def check_expansion(batch_shape: torch.Size, new: Any) -> torch.Size:
    """The new batch shape, or ValueError where ``batch_shape`` does not expand to it."""
    size = check_shape("batch_shape", new)
    kept = size[len(size) - len(batch_shape) :]
    if len(size) < len(batch_shape) or any(old not in (1, n) for old, n in zip(batch_shape, kept, strict=True)):
        raise ValueError(
            f"a batch of shape {tuple(batch_shape)} does not expand to {tuple(size)}: expand takes the new batch "
            "shape, without the event."
        )
    return size


def broadcast(**shapes: torch.Size) -> torch.Size:
    """The common shape of batches, by the names that an error gives them."""
    try:
        return torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        named = " and ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"batch shapes must broadcast: {named} do not.") from None


def normal(x: _Value) -> _Value:
    """As it is, but a copy of a tensor that was made under inference mode, which autograd could not save."""
    if isinstance(x, torch.Tensor) and not torch.compiler.is_compiling() and x.is_inference():
        with torch.inference_mode(False):
            return cast(_Value, x.clone())
    return x


def check_parameters(structure: Structure, given: dict[str, Any], batch_shape: torch.Size) -> dict[str, torch.Tensor]:
    """Values of the hull's parameters as tensors, checked against a batch, else as given.

    Raises:
        TypeError: a missing or unknown name. ValueError: a wrong shape, not finite, or against its CVXPY attributes.
    """
    values = {
        name: normal(v) if isinstance(v, torch.Tensor) else torch.as_tensor(v, dtype=torch.float64, device="cpu")
        for name, v in given.items()
    }
    structure.flat_parameters(values, batch_shape)
    return values
