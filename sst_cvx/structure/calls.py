"""What every structure's argmax and sample share: arguments checked, modes left out, answers of the utilities' kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sst_cvx.arguments import check_finite, check_utilities
from sst_cvx.once import without_autocast


def checked(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A method of (self, utilities, ...) that sees finite ``(*batch, *event_shape)`` float32 or float64 utilities
    without gradient, and whose answer must be like them.

    Raises (before the method is asked):
        TypeError: utilities that are no floating tensor. ValueError: of a wrong shape, or not finite.

    Raises (after):
        TypeError, ValueError: an answer of another type or shape.
    """
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, u: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        check_utilities(u, self.event_shape)
        with torch.no_grad(), without_autocast(u.device.type):
            wide = u.detach()
            wide = wide if wide.dtype in (torch.float64, torch.float32) else wide.float()  # sums overflow in 16 bits
            check_finite(wide, "utilities")
            x = method(self, wide, *args, **kwargs)
            _check_answer(x, wide, name)
        return x if x.dtype == u.dtype else x.to(u.dtype)

    return call


def _check_answer(x: Any, u: torch.Tensor, name: str) -> None:
    if not isinstance(x, torch.Tensor) or x.dtype != u.dtype or x.device != u.device:
        got = f"{x.dtype} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(
            f"{name} must return a tensor of the dtype and device of the utilities, {u.dtype} on {u.device}, got "
            f"{got}: end it with .to(u)."
        )
    if x.shape != u.shape:
        raise ValueError(
            f"{name} must return the shape of the utilities, {tuple(u.shape)}, got {tuple(x.shape)}: it maps "
            "(*batch, *event_shape) to the same, for any leading batch dimensions."
        )
