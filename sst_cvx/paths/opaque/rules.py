"""What compilers and ``vmap`` are told of the operators: shapes, and to fold a mapped dimension into the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sst_cvx.paths.opaque.operators import gradient, second, solve, tangent


@solve.register_fake
def _(u: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return u.new_empty(u.shape), torch.empty((), dtype=torch.int64)


@gradient.register_fake
def _(v: torch.Tensor, u: torch.Tensor, t: torch.Tensor, parameters: Sequence[torch.Tensor], *rest: Any) -> Any:
    return [v.new_empty(v.shape), *(p.new_empty((v.shape[0], *p.shape[1:])) for p in parameters)]


@tangent.register_fake
def _(du: torch.Tensor, moves: Sequence[torch.Tensor], u: torch.Tensor, *rest: Any) -> torch.Tensor:
    return u.new_empty(u.shape)


@second.register_fake
def _(w: Any, v: torch.Tensor, u: torch.Tensor, t: torch.Tensor, parameters: Sequence[torch.Tensor], *rest: Any) -> Any:
    return [x.new_empty(x.shape) for x in (v, u, *parameters)]


class _Fold:
    """A mapped dimension in front of the batch: ``(size, count, ...)`` to ``(size * count, ...)`` and back."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, x: Any, dim: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [self(each, at) for each, at in zip(x, dim, strict=True)]
        if x is None:
            return None
        x = x.expand(self.size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.reshape(self.size * x.shape[1], *x.shape[2:])

    def back(self, x: Any) -> Any:
        """And the dimension in which it is mapped now."""
        if isinstance(x, (list, tuple)):
            return [self.back(each)[0] for each in x], [0] * len(x)
        return x.reshape(self.size, x.shape[0] // self.size, *x.shape[1:]), 0


@solve.register_vmap
def _(info: Any, dims: Any, u: Any, t: Any, parameters: Any, mask: Any, *how: Any) -> Any:
    fold = _Fold(info.batch_size)
    x, token = solve(*map(fold, (u, t, parameters, mask), dims[:4]), *how)
    x, dim = fold.back(x)
    return (x, token), (dim, None)


@gradient.register_vmap
def _(info: Any, dims: Any, v: Any, u: Any, t: Any, parameters: Any, mask: Any, *how: Any) -> Any:
    fold = _Fold(info.batch_size)
    if all(dim is None for dim in (*dims[1:3], *dims[3], dims[4])):  # several cotangents of one solve
        return fold.back(gradient(fold(v, dims[0]), u, t, parameters, mask, *how))
    rows = u.shape[0 if dims[1] is None else int(dims[1] == 0)]
    v = v.expand(info.batch_size, *v.shape) if dims[0] is None else v.movedim(dims[0], 0)
    several = v.unflatten(1, (-1, rows)).transpose(0, 1)  # cotangents, mapped, count
    found = gradient(several.flatten(0, 2), *map(fold, (u, t, parameters, mask), dims[1:5]), *how)
    shape = several.shape[:3]
    return [g.reshape(*shape, *g.shape[1:]).transpose(0, 1).flatten(1, 2) for g in found], [0] * len(found)


@tangent.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> Any:
    fold = _Fold(info.batch_size)
    return fold.back(tangent(*map(fold, inputs[:6], dims[:6]), *inputs[6:]))


@second.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> Any:
    fold = _Fold(info.batch_size)
    return fold.back(second(*map(fold, inputs[:6], dims[:6]), *inputs[6:]))
