"""Gradients whatever the caller's autograd mode, and autograd functions without the overhead of their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def gradient(function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """d sum(function(u)) / d u, also under ``torch.no_grad`` and ``torch.inference_mode``; itself differentiable where
    u is and grad mode is on."""
    if is_transformed():
        if _is_exporting():
            raise NotImplementedError(
                "torch.export takes no derivatives inside a program, and would export wrong numbers: export marginals "
                "by another path, or compile with torch.compile instead."
            )
        return torch.func.grad(lambda v: function(v).sum())(u)
    tangent = forward_ad.unpack_dual(u).tangent if forward_ad._current_level >= 0 else None
    if tangent is not None:
        return _dual_gradient(function, forward_ad.unpack_dual(u).primal, tangent)
    differentiable = torch.is_grad_enabled() and u.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        v = u if differentiable else (u.clone() if u.is_inference() else u.detach()).requires_grad_()
        (x,) = torch.autograd.grad(function(v).sum(), v, create_graph=differentiable)
    return x + u * 0 if differentiable and not x.requires_grad else x  # of a linear function: constant


def _dual_gradient(
    function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor, tangent: torch.Tensor
) -> torch.Tensor:
    """The gradient with its tangent, for forward-mode AD: by a second derivative, as autograd drops the tangent of what
    it computes backwards. Of a Hessian, which is symmetric."""
    with torch.enable_grad():
        v = u if u.requires_grad else u.detach().requires_grad_()
        x = gradient(function, v)
        along = None
        if x.requires_grad:
            (along,) = torch.autograd.grad(x, v, tangent, create_graph=u.requires_grad, allow_unused=True)
    along = torch.zeros_like(tangent) if along is None else along
    return forward_ad.make_dual(x if u.requires_grad else x.detach(), along)


def _is_exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def is_transformed() -> bool:
    """Whether a compiler traces, or ``torch.func`` transforms."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_differentiated(x: torch.Tensor) -> bool:
    """By autograd, backwards or forwards."""
    return (torch.is_grad_enabled() and x.requires_grad) or forward_ad._current_level >= 0


class Function:
    """A ``torch.autograd.Function`` with ``setup_context``, for ``torch.func``, whose calls elsewhere cost less.

    Subclasses give ``forward``, ``setup_context``, ``backward``, and where they have them ``jvp`` and ``vmap``, as
    static methods, and are called by ``apply`` with positional arguments. Three classes of torch's are made of one:

    - under the transforms of ``torch.func``, the one as it stands. Its ``apply`` inspects the signature of ``forward``
      each time (some 50 us), so that
    - elsewhere, one of the older kind takes its place, or ``forward`` alone where no derivative is asked for;
    - a compiler, which takes neither ``jvp`` nor ``vmap``, sees the older kind without them.

    Of the older ``vmap``, that of ``torch.autograd.grad(is_grads_batched=True)``, classes that work in place say
    ``one_by_one=True``: their cotangents (and tangents) are then taken so.
    """

    _transformed: type[torch.autograd.Function]
    _eager: type[torch.autograd.Function]
    _traced: type[torch.autograd.Function]
    forward: Callable[..., Any]
    setup_context: Callable[..., Any]
    backward: Callable[..., Any]
    jvp: Callable[..., Any]

    def __init_subclass__(cls, one_by_one: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        own = {name: cls.__dict__[name] for name in _METHODS if name in cls.__dict__}
        older = {"forward": staticmethod(forward), "backward": own["backward"]}
        forwards = {"jvp": own["jvp"]} if "jvp" in own else {}
        if one_by_one:
            older["backward"] = staticmethod(_one_by_one(cls.backward))
            forwards = {name: staticmethod(_one_by_one(cls.jvp)) for name in forwards}
        cls._transformed = type(cls.__name__, (torch.autograd.Function,), own)
        cls._eager = type(cls.__name__, (torch.autograd.Function,), older | forwards)
        cls._traced = type(cls.__name__, (torch.autograd.Function,), older)

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        differentiates = torch.is_grad_enabled() and any(map(_requires_grad, inputs))
        transformed = torch._C._are_functorch_transforms_active()
        if torch.compiler.is_dynamo_compiling():
            return cls._traced.apply(*inputs) if differentiates or transformed else cls.forward(*inputs)
        if transformed:
            return cls._transformed.apply(*inputs)
        if differentiates or forward_ad._current_level >= 0:
            return cls._eager.apply(*inputs)
        return cls.forward(*inputs)


_METHODS = ("forward", "setup_context", "backward", "jvp", "vmap", "generate_vmap_rule")


def _requires_grad(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


def _one_by_one(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method(ctx, *vectors)``, for each of the vectors that the older ``vmap`` maps over."""

    def call(ctx: Any, *vectors: Any) -> Any:
        if not any(map(_is_mapped, vectors)):
            return method(ctx, *vectors)
        if torch.is_grad_enabled() and any(map(_requires_grad, (*vectors, *ctx.saved_tensors))):
            raise NotImplementedError(
                "batched gradients are not differentiable again here: use torch.func.jacrev, or create_graph=True "
                "without is_grads_batched (vectorize)."
            )
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        split, join = torch._remove_batch_dim, torch._add_batch_dim  # pyright: ignore[reportPrivateImportUsage]
        rows = [split(v, level, 0, 0).unbind() if _is_mapped(v) else None for v in vectors]
        count = next(len(x) for x in rows if x is not None)
        found = [
            method(ctx, *(v if x is None else x[i] for v, x in zip(vectors, rows, strict=True))) for i in range(count)
        ]
        if isinstance(found[0], torch.Tensor):
            return join(torch.stack(found), 0, level)
        parts = zip(*found, strict=True)
        return tuple(None if part[0] is None else join(torch.stack(part), 0, level) for part in parts)

    return call


def _is_mapped(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and torch._C._functorch.is_legacy_batchedtensor(x)  # pyright: ignore
