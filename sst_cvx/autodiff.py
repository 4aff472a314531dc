"""Gradients whatever the caller's autograd mode, and autograd functions without the overhead of their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def gradient(function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """d sum(function(u)) / d u, also under ``torch.no_grad`` and ``torch.inference_mode``; itself differentiable where
    u is and grad mode is on."""
    differentiable = torch.is_grad_enabled() and u.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        v = u if differentiable else (u.clone() if u.is_inference() else u.detach()).requires_grad_()
        (x,) = torch.autograd.grad(function(v).sum(), v, create_graph=differentiable)
    return x + u * 0 if differentiable and not x.requires_grad else x  # of a linear function: constant


class Function(torch.autograd.Function):
    """A ``torch.autograd.Function`` with ``setup_context``, for ``torch.func``, whose calls elsewhere cost less.

    With ``setup_context``, ``apply`` inspects the signature of ``forward`` each time (some 50 us). Outside the
    transforms of ``torch.func``, this one calls ``forward`` alone where no derivative is asked for, and else a twin of
    the older kind. Arguments are positional.
    """

    _twin: type[torch.autograd.Function]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        methods = {name: cls.__dict__[name] for name in ("backward", "jvp") if name in cls.__dict__}
        cls._twin = type(cls.__name__, (torch.autograd.Function,), {"forward": staticmethod(forward), **methods})

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*inputs)
        if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and any(map(_requires_grad, inputs))):
            return cls._twin.apply(*inputs)
        return cls.forward(*inputs)


def _requires_grad(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad
