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


class Fold:
    """A mapped dimension in front of the batch: ``(size, count, ...)`` to ``(size * count, ...)`` and back."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, x: Any, dim: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [self(each, at) for each, at in zip(x, dim, strict=True)]
        return None if x is None else self._in_front(x, dim).flatten(0, 1)

    def back(self, x: Any) -> Any:
        """And the dimension in which it is mapped now."""
        if isinstance(x, (list, tuple)):
            return [self.back(each)[0] for each in x], [0] * len(x)
        return x.reshape(self.size, x.shape[0] // self.size, *x.shape[1:]), 0

    def several(self, x: Any, dim: Any, rows: int) -> Any:
        """Of several parts of ``rows`` each, which stay the first dimension: ``(parts * size * rows, ...)``."""
        if isinstance(x, (list, tuple)):
            return [self.several(each, at, rows) for each, at in zip(x, dim, strict=True)]
        return self._in_front(x, dim).unflatten(1, (-1, rows)).transpose(0, 1).flatten(0, 2)

    def several_back(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        return x.unflatten(0, (-1, self.size, rows)).transpose(0, 1).flatten(1, 2)

    def _in_front(self, x: torch.Tensor, dim: int | None) -> torch.Tensor:
        return x.expand(self.size, *x.shape) if dim is None else x.movedim(dim, 0)


def map_solve(call: Any, size: int, dims: Any, u: Any, t: Any, parameters: Any, mask: Any, *how: Any) -> Any:
    """``vmap`` of a function of these arguments; likewise below."""
    fold = Fold(size)
    x, token = call(*map(fold, (u, t, parameters, mask), dims[:4]), *how)
    x, dim = fold.back(x)
    return (x, token), (dim, None)


def map_gradient(
    call: Any, size: int, dims: Any, v: Any, u: Any, t: Any, parameters: Any, mask: Any, *how: Any
) -> tuple[Any, Any]:
    fold = Fold(size)
    if all(dim is None for dim in (*dims[1:3], *dims[3], dims[4])):  # several cotangents of one solve
        return fold.back(call(fold(v, dims[0]), u, t, parameters, mask, *how))
    rows = _rows(u, dims[1])
    found = call(fold.several(v, dims[0], rows), *map(fold, (u, t, parameters, mask), dims[1:5]), *how)
    return [fold.several_back(g, rows) for g in found], [0] * len(found)


def _rows(u: torch.Tensor, dim: int | None) -> int:
    return u.shape[0 if dim is None else int(dim == 0)]


@solve.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> Any:
    return map_solve(solve, info.batch_size, dims, *inputs)


@gradient.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> Any:
    return map_gradient(gradient, info.batch_size, dims, *inputs)


@tangent.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> Any:
    fold = Fold(info.batch_size)
    return fold.back(tangent(*map(fold, inputs[:6], dims[:6]), *inputs[6:]))


@second.register_vmap
def _(info: Any, dims: Any, w: Any, v: Any, *inputs: Any) -> Any:
    fold, rows = Fold(info.batch_size), _rows(inputs[0], dims[2])
    several = [fold.several(x, dim, rows) for x, dim in zip((w, v), dims, strict=False)]
    g_v, *found = second(*several, *map(fold, inputs[:4], dims[2:6]), *inputs[4:])
    return [fold.several_back(g_v, rows), *fold.back(found)[0]], [0] * (1 + len(found))
