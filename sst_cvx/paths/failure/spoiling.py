"""Failed elements as NaN: value, and gradient where that is asked for."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.autodiff import Function


class Spoiled(Function):
    """x ``(count, ...)`` with NaN in the rows that are ``wrong``, ``(count,)``; e, ``(count, ...)``, is what they are a
    function of. NaN is their gradient by e, and 0 where their cotangent is exactly 0: a loss that leaves them out."""

    @staticmethod
    def forward(x: Any, e: Any, wrong: Any) -> Any:
        del e
        return torch.where(_like(wrong, x), torch.nan, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, v: Any) -> Any:
        (wrong,) = ctx.saved_tensors
        used = wrong & (v != 0).flatten(1).any(1)
        nothing = torch.zeros_like(v)
        return torch.where(_like(wrong, v), nothing, v), nothing.masked_fill(_like(used, v), torch.nan), None


class NoGradient(Function):
    """Rows x ``(count, ...)`` as they are, as functions of hull parameters, too; asked for their gradient, an error
    unless their cotangent is exactly 0."""

    @staticmethod
    def forward(x: Any, message: Any, *parameters: Any) -> Any:
        del message, parameters
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.message = inputs[1]
        ctx.shapes = [p.shape for p in inputs[2:]]

    @staticmethod
    def backward(ctx: Any, v: Any) -> Any:
        if any(ctx.needs_input_grad[2:]) and bool((v != 0).any()):
            raise NotImplementedError(ctx.message)
        return v, None, *[None] * len(ctx.shapes)


def _like(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return rows.reshape(-1, *[1] * (x.dim() - 1))
