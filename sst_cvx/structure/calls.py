"""What every structure's argmax and sample share: arguments checked, modes left out, answers of the utilities' kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sst_cvx.arguments import check_finite, check_utilities
from sst_cvx.faults import not_finite, tell
from sst_cvx.host import may_ask
from sst_cvx.once import without_autocast
from sst_cvx.structure import operator
from sst_cvx.structure.absent import with_absent


def checked(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A method of (self, utilities, ...) that sees finite ``(*batch, *event_shape)`` float32 or float64 utilities
    without gradient, and whose answer must be like them.

    Raises (before the method is asked):
        TypeError: utilities that are no floating tensor. ValueError: of a wrong shape, or not finite.

    Raises (after):
        TypeError, ValueError: an answer of another type or shape.

    Where the host must not be asked, elements that are not finite, or without an answer, are NaN; an argmax that is no
    program of tensors (``argmax_on_device``) is asked through an operator. Of 0/1 arrays, -inf forbids an item.
    """
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, u: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        batch_shape = check_utilities(u, self.event_shape)
        with torch.no_grad(), without_autocast(u.device.type):
            wide = u.detach()
            wide = wide if wide.dtype in (torch.float64, torch.float32) else wide.float()  # sums overflow in 16 bits
            allowed, masked = with_absent(self, wide, None), None
            if allowed is not None:
                masked = self.check_mask(allowed, wide.shape, wide.device)
                wide = masked.lowered(wide)
            if may_ask(wide):
                check_finite(wide, "utilities")
                x = method(self, wide, *args, **kwargs)
                _check_answer(x, wide, name)
            elif name == "argmax" and not self.argmax_on_device:
                x = operator.argmax(self, wide, None, self.flat_parameters(kwargs, batch_shape))
                tell(x.isnan(), batch_shape, f"{self!r}.argmax", "no argmax was found for {elements}.")
            else:
                wrong = not_finite(wide, len(batch_shape))
                x = method(self, torch.where(wrong, 0.0, wide), *args, **kwargs)
                x = torch.where(wrong, torch.nan, x)
                tell(wrong, batch_shape, f"{self!r}.{name}", "utilities must be finite, but are not for {elements}.")
            x = x if masked is None else masked.removed(x)
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
