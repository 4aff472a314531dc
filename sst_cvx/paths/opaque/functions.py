"""Paths that ask the host, as operators: opaque to compilers, with rules for what ``torch.func`` does.

A solver stops when it is done, and says so on the host. Where the host must not be asked (``host.may_ask``), and under
every transform of ``torch.func``, a solver path is therefore one operator, ``sst_cvx::solve``, on flat batches: what is
traced and transformed is its name, and inside it all is eager, without any transform. There

    gradient   J'v, by autograd of the solve, which is kept until then and done again where it is gone
    tangent    J w, of utilities by J = J' (X_t is a gradient), of hull parameters by differentiating J'v in v
    second     derivatives of <w, J'v>, by autograd of the gradient

and ``vmap`` folds the mapped dimension into the batch. In X_t(u) = X_s(u s / t), which holds for every s, s is a
constant: no operator has a derivative in the temperature.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd import forward_ad

from sst_cvx.autodiff import Function
from sst_cvx.host import leaves_traces
from sst_cvx.paths.base import Batch
from sst_cvx.paths.opaque.operators import gradient, hold, second, solve, tangent
from sst_cvx.paths.opaque.rules import map_gradient, map_solve
from sst_cvx.structure.base import Structure
from sst_cvx.structure.masks import Mask, expand_mask


def is_needed(u: torch.Tensor) -> bool:
    """Whether a solver path has to be an operator here: anything but plain eager calls."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or not leaves_traces(u)
    )


def flat_mask(structure: Structure, fast: bool, mask: Any, u: torch.Tensor) -> Mask:
    """A mask for utilities ``(*batch, *event_shape)``, of the flat batch, checked; unless this is to be an operator,
    which asks the structure about it inside."""
    if fast or not is_needed(u):
        return structure.check_mask(mask, u.shape, u.device).flat()
    allowed = expand_mask(mask, u.shape, u.device).reshape(-1, *structure.event_shape)
    return Mask(allowed, allowed, 1)


def answer(number: int, batch: Batch) -> torch.Tensor:
    """Guarded points of a flat batch, by the SoftArgmax of this number; failures are NaN where there are faults.

    Masks are checked inside, where the structure may be asked what it needs.
    """
    number = hold(number) if torch.compiler.is_compiling() and _is_exporting() else number
    u, t = batch.u, batch.temperatures
    if isinstance(batch.t, torch.Tensor):
        absent = u == -math.inf  # 0 times it is no derivative
        scaled = torch.where(absent, 0.0, u) * (t.detach() / t).reshape(-1, *[1] * (u.dim() - 1))
        u = torch.where(absent, -math.inf, scaled)
    mask = None if batch.mask is None else batch.mask.allowed
    parameters, raises = list(batch.parameters.values()), batch.faults is None
    keep = _differentiates(u, *parameters)
    x, _ = _Solve.apply(u, t.detach(), mask, tuple(batch.elements.batch_shape), number, raises, keep, *parameters)
    return x


def _is_exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", lambda: True)()


def _differentiates(*tensors: torch.Tensor) -> bool:
    """Whether a derivative may be asked for."""
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    )


class _Solve(Function):
    """(x, token) of (u, t, mask, batch shape, number, raises, keep, *parameters)."""

    @staticmethod
    def forward(u: Any, t: Any, mask: Any, shape: Any, number: Any, raises: Any, keep: Any, *parameters: Any) -> Any:
        return solve(u, t, parameters, mask, shape, number, raises, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        u, t, mask, *ctx.how, _ = inputs[:7]
        ctx.masked = mask is not None
        tensors = (u, t, output[1], *inputs[7:], *((mask,) if ctx.masked else ()))
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, v: Any, _: Any) -> Any:
        u, t, token, mask, parameters = _saved(ctx)
        g, *of_parameters = _Gradient.apply(v, u, t, token, mask, *ctx.how, *parameters)
        return g, None, None, None, None, None, None, *of_parameters

    @staticmethod
    def jvp(ctx: Any, du: Any, *tangents: Any) -> Any:
        u, t, token, mask, parameters = _saved(ctx)
        moves = tangents[6:]
        if all(move is None for move in moves):
            return gradient(_or_zero(du, u), u, t, parameters, mask, *ctx.how, token)[0], None
        moves = [_or_zero(move, p) for move, p in zip(moves, parameters, strict=True)]
        return tangent(_or_zero(du, u), moves, u, t, parameters, mask, *ctx.how), None

    @staticmethod
    def vmap(info: Any, dims: Any, u: Any, t: Any, mask: Any, *inputs: Any) -> Any:
        how, parameters = inputs[:4], inputs[4:]

        def call(u: Any, t: Any, parameters: Any, mask: Any) -> Any:
            return _Solve.apply(u, t, mask, *how, *parameters)

        return map_solve(call, info.batch_size, (*dims[:2], dims[7:], dims[2]), u, t, parameters, mask)


class _Gradient(Function):
    """J'v of utilities and parameters, of (v, u, t, token, mask, batch shape, number, raises, *parameters)."""

    @staticmethod
    def forward(
        v: Any, u: Any, t: Any, token: Any, mask: Any, shape: Any, number: Any, raises: Any, *parameters: Any
    ) -> Any:
        return tuple(gradient(v, u, t, parameters, mask, shape, number, raises, token))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        v, u, t, token, mask, *ctx.how = inputs[:8]
        ctx.masked = mask is not None
        tensors = (u, t, token, *inputs[8:], v, *((mask,) if ctx.masked else ()))
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *w: Any) -> Any:
        u, t, _, mask, (*parameters, v) = _saved(ctx)
        g_v, g_u, *of_parameters = second(w, v, u, t, parameters, mask, *ctx.how)
        return g_v, g_u, None, None, None, None, None, None, *of_parameters

    @staticmethod
    def jvp(ctx: Any, dv: Any, du: Any, *tangents: Any) -> Any:
        u, t, token, mask, (*parameters, v) = _saved(ctx)
        if parameters:
            raise NotImplementedError(
                "forward over reverse mode through a soft argmax whose hull has parameters: use reverse mode twice, "
                "torch.func.jacrev(torch.func.grad(...))."
            )
        (moved,) = gradient(_or_zero(dv, v), u, t, (), mask, *ctx.how, token)
        if du is not None:  # <w, J v> has third derivatives, which are symmetric
            parts = v.shape[0] // u.shape[0]  # cotangents of one solve
            du, u, t, mask = (None if x is None else x.repeat(parts, *[1] * (x.dim() - 1)) for x in (du, u, t, mask))
            moved = moved + second([du], v, u, t, (), mask, *ctx.how)[1]
        return (moved,)

    @staticmethod
    def vmap(info: Any, dims: Any, v: Any, u: Any, t: Any, token: Any, mask: Any, *inputs: Any) -> Any:
        how, parameters = inputs[:3], inputs[3:]

        def call(v: Any, u: Any, t: Any, parameters: Any, mask: Any) -> Any:
            return _Gradient.apply(v, u, t, token, mask, *how, *parameters)

        found, out = map_gradient(call, info.batch_size, (*dims[:3], dims[8:], dims[4]), v, u, t, parameters, mask)
        return tuple(found), tuple(out)


def _saved(ctx: Any) -> tuple[Any, Any, Any, Any, tuple[Any, ...]]:
    u, t, token, *rest = ctx.saved_tensors
    mask = rest.pop() if ctx.masked else None
    return u, t, token, mask, tuple(rest)


def _or_zero(tangent: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if tangent is None else tangent
